"""The rating page's server: one static page, three calls, and nothing that names a model."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field

from chatpipe.rating.session import Judgement, Session, StaleError
from chatpipe.rating.texts import page_texts
from chatpipe.utils.texts import Language, html_language, in_language
from chatpipe.web.access import Access
from chatpipe.web.app import static_router, web_app
from chatpipe.web.http_errors import RequestError

LARGEST_BODY = 1 << 16  # bytes; a remark is the longest part


class RaterBody(BaseModel):
    """Who wants a pair."""

    model_config = ConfigDict(extra="forbid")

    rater: str = Field(min_length=1, max_length=80, pattern=r"\S")


class RatingBody(Judgement):
    """A rating, with who says so."""

    rater: str = Field(min_length=1, max_length=80, pattern=r"\S")


def rating_app(
    session: Session,
    lang: Language = "en",
    rater: str | None = None,
    key: str | None = None,
    host: str = "127.0.0.1",
) -> FastAPI:
    """Return the app.

    Args:
        session: The pairs, and what is said of them.
        rater: The one who rates; where left out, the page asks for a name.
        key: What a call has to bring as its bearer token.
        host: Where the app is to listen.
    """
    page = {
        "/": (_page(lang, rater or "", key is not None).encode(), "text/html"),
        "/rate.js": (_file("rate.js"), "text/javascript"),
        "/rate.css": (_file("rate.css"), "text/css"),
    }
    access = Access(host, key, page.keys(), LARGEST_BODY)
    return web_app(access, [static_router(page), _calls(session, rater)])


def _calls(session: Session, rater: str | None) -> APIRouter:
    """Return the routes of what the page asks for and stores."""
    router = APIRouter(prefix="/api")

    @router.post("/next")
    def next_pair(body: RaterBody) -> dict[str, Any]:
        return session.state(rater or body.rater.strip())

    @router.post("/rate")
    def rate(body: RatingBody) -> dict[str, Any]:
        judgement = Judgement(**body.model_dump(exclude={"rater"}))
        try:
            return session.rate(rater or body.rater.strip(), judgement)
        except StaleError as error:
            raise RequestError(409, f"{error}.") from None

    @router.post("/undo")
    def undo(body: RaterBody) -> dict[str, Any]:
        return session.undo(rater or body.rater.strip())

    return router


def _page(lang: Language, rater: str, needs_key: bool) -> str:
    engine = Environment(
        loader=PackageLoader("chatpipe.rating", "page"), autoescape=True, undefined=StrictUndefined
    )
    template = engine.get_template("rate.html.j2")
    with in_language(lang):
        html_lang = html_language()
    return template.render(lang=html_lang, texts=page_texts(lang), rater=rater, needs_key=needs_key)


def _file(name: str) -> bytes:
    return (files("chatpipe.rating") / "page" / name).read_bytes()

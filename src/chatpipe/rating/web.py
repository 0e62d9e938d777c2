"""The rating page's server: one static page, three calls, and nothing that names a model."""

from __future__ import annotations

import hmac
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field

from chatpipe.rating.session import Judgement, Session, StaleError
from chatpipe.rating.texts import page_texts
from chatpipe.utils.texts import Language, html_language, in_language

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CALLS = "/api"
LARGEST_BODY = 1 << 16  # bytes; a remark is the longest part


class RaterBody(BaseModel):
    """Who wants a pair."""

    model_config = ConfigDict(extra="forbid")

    rater: str = Field(min_length=1, max_length=80, pattern=r"\S")


class RatingBody(Judgement):
    """A rating, with who says so."""

    rater: str = Field(min_length=1, max_length=80, pattern=r"\S")


def rating_app(
    session: Session, lang: Language = "en", rater: str | None = None, key: str | None = None
) -> FastAPI:
    """Return the app.

    Args:
        session: The pairs, and what is said of them.
        rater: The one who rates; where left out, the page asks for a name.
        key: What a request has to bring as its bearer token. Without one, only requests to this
            machine's own names are answered, so that no other page can reach it by a name of its
            own that leads here.
    """
    app = FastAPI(title="chatpipe rate", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def check_and_add_headers(request: Request, answer: Any) -> Response:
        refusal = _refusal(request, key)  # before the body is read
        reply: Response = JSONResponse(*refusal) if refusal else await answer(request)
        reply.headers.update(PAGE_HEADERS)
        return reply

    @app.exception_handler(StaleError)
    def stale(request: Request, error: StaleError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    app.include_router(_static(_page(lang, rater or "", key is not None)))
    app.include_router(_calls(session, rater), prefix=CALLS)
    return app


def _refusal(request: Request, key: str | None) -> tuple[dict[str, str], int] | None:
    """Return why a request is not answered, and the status that says so."""
    if key is None and _host(request) not in LOOPBACK:
        return {"detail": "this host is not served"}, 421
    if not request.url.path.startswith(CALLS):
        return None
    authorization = request.headers.get("authorization", "")
    if key and not hmac.compare_digest(authorization.encode(), f"Bearer {key}".encode()):
        return {"detail": "the key is not the right one"}, 401
    if request.headers.get("content-type") != "application/json":
        return {"detail": "the body has to be JSON"}, 415  # a form of another page cannot send it
    size = request.headers.get("content-length", "")
    if not size.isdigit() or int(size) > LARGEST_BODY:
        return {"detail": f"the body has to have at most {LARGEST_BODY:,} bytes"}, 413
    return None


def _static(page: str) -> APIRouter:
    """Return the routes of the page and its files."""
    router = APIRouter()

    @router.get("/")
    def show_page() -> HTMLResponse:
        return HTMLResponse(page)

    @router.get("/rate.js")
    def script() -> Response:
        return Response(_file("rate.js"), media_type="text/javascript")

    @router.get("/rate.css")
    def style() -> Response:
        return Response(_file("rate.css"), media_type="text/css")

    return router


def _calls(session: Session, rater: str | None) -> APIRouter:
    """Return the routes of what the page asks for and stores."""
    router = APIRouter()

    @router.post("/next")
    def next_pair(body: RaterBody) -> dict[str, Any]:
        return session.state(rater or body.rater.strip())

    @router.post("/rate")
    def rate(body: RatingBody) -> dict[str, Any]:
        judgement = Judgement(**body.model_dump(exclude={"rater"}))
        return session.rate(rater or body.rater.strip(), judgement)

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


def _file(name: str) -> str:
    return (files("chatpipe.rating") / "page" / name).read_text("utf-8")


def _host(request: Request) -> str:
    """Return the name of this machine that the request is for, without the port."""
    host = request.headers.get("host", "")
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host

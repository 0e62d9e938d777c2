"""The chat page's routes: static files, and the texts of the page in Chinese."""

from __future__ import annotations

import json
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from chatpipe.utils.chinese_page import PAGE

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
FILES = ("index.html", "page.css", "page.js", "history.js", "stream.js", "texts.js")
INDEX = "index.html"
TEXTS = "texts.json"
# What a server answers without a key: the page asks for the key that its calls need.
PUBLIC_PATHS = ("/", *(f"/{name}" for name in (*FILES, TEXTS) if name != INDEX))


def page_router() -> APIRouter:
    """Return the routes of the page, for a server that has OpenAI's `/v1/models` and
    `/v1/chat/completions` at the same address."""
    router = APIRouter()
    for name in FILES:
        content = (files("chatpipe.page") / "static" / name).read_bytes()
        _add(router, "" if name == INDEX else name, content, MEDIA_TYPES[name.rpartition(".")[2]])
    texts = json.dumps({"zh": PAGE}, ensure_ascii=False).encode()
    _add(router, TEXTS, texts, "application/json")
    return router


def _add(router: APIRouter, path: str, content: bytes, media_type: str) -> None:
    def respond() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    router.add_api_route(f"/{path}", respond, methods=["GET"], include_in_schema=False)

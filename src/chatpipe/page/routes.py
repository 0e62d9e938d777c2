"""The chat page's routes: static files, and the texts of the page in Chinese."""

from __future__ import annotations

import json
from importlib.resources import files

from fastapi import APIRouter

from chatpipe.utils.chinese_page import PAGE
from chatpipe.web.app import static_router

MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
FILES = ("index.html", "page.css", "page.js", "history.js", "stream.js", "texts.js")
INDEX = "index.html"
TEXTS = "texts.json"
# What a server answers without a key: the page asks for the key that its calls need.
PUBLIC_PATHS = ("/", *(f"/{name}" for name in (*FILES, TEXTS) if name != INDEX))


def page_router() -> APIRouter:
    """Return the routes of the page, for a server that has OpenAI's `/v1/models` and
    `/v1/chat/completions` at the same address."""
    static = files("chatpipe.page") / "static"
    contents = {
        "/" if name == INDEX else f"/{name}": (
            (static / name).read_bytes(),
            MEDIA_TYPES[name.rpartition(".")[2]],
        )
        for name in FILES
    }
    texts = json.dumps({"zh": PAGE}, ensure_ascii=False).encode()
    return static_router({**contents, f"/{TEXTS}": (texts, "application/json")})

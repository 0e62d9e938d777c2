"""A hub on this machine: the few addresses that huggingface_hub asks, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """Files with content, and files of which only the size is known: nobody may fetch those."""

    small: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, int] = field(default_factory=dict)
    gated: bool = False


@contextmanager
def hub(repos: dict[str, Repo]) -> Iterator[tuple[str, list[str]]]:
    """(its address, "GET path" or "HEAD path" of every request so far); the repositories are
    named like models/owner/name."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            asked.append(f"{self.command} {path}")
            status, headers, content = _answer(repos, path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def _answer(repos: dict[str, Repo], path: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, content) of a path."""
    for name, repo in repos.items():
        files = name.removeprefix("models/") + f"/resolve/{COMMIT}/"
        if path.startswith(f"api/{name}/") and repo.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if path.startswith(f"api/{name}/revision/"):
            return 200, {}, json.dumps({"id": name, "sha": COMMIT}).encode()
        if path == f"api/{name}/tree/{COMMIT}":
            return 200, {}, json.dumps(_tree(repo)).encode()
        file = path.removeprefix(files)
        size = _sizes(repo).get(file)
        if size is not None:
            etag = hashlib.sha1(file.encode()).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(size)}
            return 200, headers, repo.small.get(file, b"")
    return 404, {"X-Error-Code": "RepoNotFound"}, b""


def _sizes(repo: Repo) -> dict[str, int]:
    return {name: len(content) for name, content in repo.small.items()} | repo.large


def _tree(repo: Repo) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
        for name, size in _sizes(repo).items()
    ]

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
    """(its address, the paths that were asked for) of a hub with "models/owner/name" repos."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            asked.append(path)
            for name, repo in repos.items():
                files = name.removeprefix("models/") + f"/resolve/{COMMIT}/"
                if path.startswith(f"api/{name}/") and repo.gated:
                    return self._send(b"", 403, {"X-Error-Code": "GatedRepo"})
                if path.startswith(f"api/{name}/revision/"):
                    return self._send(json.dumps({"id": name, "sha": COMMIT}).encode())
                if path == f"api/{name}/tree/{COMMIT}":
                    return self._send(json.dumps(_tree(repo)).encode())
                if path.startswith(files) and path.removeprefix(files) in repo.small:
                    return self._file(repo.small[path.removeprefix(files)])
            return self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})

        def _file(self, content: bytes) -> None:
            etag = hashlib.sha1(content).hexdigest()
            self._send(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def _send(
            self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def _tree(repo: Repo) -> list[dict[str, Any]]:
    sizes = {name: len(content) for name, content in repo.small.items()} | repo.large
    return [
        {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
        for name, size in sizes.items()
    ]

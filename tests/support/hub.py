"""A hub on this machine: the addresses that huggingface_hub asks, over real HTTP, with faults."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """Files with content, and files of which only the size is known: nobody may fetch those."""

    small: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, int] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main",)
    commit: str = COMMIT
    gated: bool = False
    token: str | None = None  # private: the only token that may read it
    renamed_to: str | None = None
    unavailable: int = 0  # how many requests for files are still answered with 503
    cut_after: int | None = None  # the next file is cut after so many bytes, once
    reset: bool = False  # … by a reset, not politely

    @classmethod
    def of(cls, folder: Path, **options: Any) -> Repo:
        """The files beneath that folder."""
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        return cls(small=files, **options)


@dataclass
class Answer:
    """What a request gets; of `content` only what its Range asks for is sent."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    cut_after: int | None = None
    reset: bool = False


@contextmanager
def hub(repos: dict[str, Repo]) -> Iterator[tuple[str, list[str]]]:
    """(its address, "GET path" or "HEAD path" of every request so far, with "bytes=…" where a part
    was asked for); the repositories are named like models/owner/name."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0].strip("/"))
            part = self.headers.get("Range", "")
            asked.append(f"{self.command} {path} {part}".strip())
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            answer = _ranged(_answer(repos, self.command, path, token), part)
            self.send_response(answer.status)
            headers = {"Content-Length": str(len(answer.content))} | answer.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer.content[: answer.cut_after])
                if answer.cut_after is not None:
                    self.close_connection = True
                if answer.reset:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        do_HEAD = do_GET  # noqa: N815

    class Server(ThreadingHTTPServer):
        def shutdown_request(self, request: Any) -> None:
            """Only close: a shutdown before it would turn a reset into a polite end."""
            self.close_request(request)

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def _answer(repos: dict[str, Repo], method: str, path: str, token: str) -> Answer:
    for name, repo in repos.items():
        plain = name.removeprefix("models/")
        api = re.fullmatch(rf"api/{name}(?:/(revision|tree)/([^?]+))?", path)
        file = re.fullmatch(rf"{plain}/resolve/([0-9a-f]{{40}}|[^/]+)/(.+)", path)
        if not api and not file:
            continue
        if repo.renamed_to:
            return Answer(307, {"Location": "/" + path.replace(plain, _plain(repo.renamed_to))})
        if repo.token and token != repo.token:
            return Answer(401, {"X-Error-Code": "RepoNotFound"})
        if repo.gated:
            return Answer(403, {"X-Error-Code": "GatedRepo"})
        return _of_api(name, repo, api) if api else _of_file(repo, method, file[2])
    return Answer(404, {"X-Error-Code": "RepoNotFound"})


def _of_api(name: str, repo: Repo, asked: re.Match[str]) -> Answer:
    revision = asked[2] or "main"
    if revision not in (*repo.revisions, repo.commit):
        return Answer(404, {"X-Error-Code": "RevisionNotFound"})
    if asked[1] == "tree":
        return Answer(200, content=json.dumps(_tree(repo)).encode())
    owner_and_name = name.partition("/")[2]
    siblings = [{"rfilename": file} for file in _sizes(repo)]
    info = {"id": owner_and_name, "sha": repo.commit, "siblings": siblings}
    return Answer(200, content=json.dumps(info).encode())


def _of_file(repo: Repo, method: str, file: str) -> Answer:
    size = _sizes(repo).get(file)
    if size is None:
        return Answer(404, {"X-Error-Code": "EntryNotFound"})
    if repo.unavailable:
        repo.unavailable -= 1
        return Answer(503)
    content = repo.small.get(file, b"")
    etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names it
    headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
    if method == "HEAD":
        return Answer(200, headers | {"Content-Length": str(size)})
    cut, repo.cut_after = repo.cut_after, None
    reset = repo.reset and cut is not None
    return Answer(200, headers, content, cut, reset)


def _ranged(answer: Answer, part: str) -> Answer:
    start = re.match(r"bytes=(\d+)-", part)
    if not start or answer.status != 200 or not answer.content:
        return answer
    first, size = int(start[1]), len(answer.content)
    answer.headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
    return Answer(206, answer.headers, answer.content[first:])


def _plain(name: str) -> str:
    return name.removeprefix("models/")


def _sizes(repo: Repo) -> dict[str, int]:
    return {name: len(content) for name, content in repo.small.items()} | repo.large


def _tree(repo: Repo) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
        for name, size in _sizes(repo).items()
    ]

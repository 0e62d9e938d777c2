"""What every request has to fulfil, and what every reply has."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders

from chatpipe.web.http_errors import RequestError
from chatpipe.web.listening import is_loopback

CLIENT_S = 10  # for a body to arrive; also how long a server that ends waits for a stalled client
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
REPLY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Asgi = Any


@dataclass(frozen=True)
class Access:
    """Who may ask for what.

    Attributes:
        host: Where the server listens. On loopback a request has to name this machine as its host,
            or a page of any site could reach the server by a name that it lets point here (DNS
            rebinding).
        key: What requests have to bring as their bearer token; None for nothing.
        public_paths: Paths that need no key: a page, which asks for the key itself.
        largest_body: In bytes.
    """

    host: str
    key: str | None
    public_paths: Collection[str]
    largest_body: int


class AccessMiddleware:
    """Refuses what `Access` does not allow, reads the body, and adds the headers of every reply.

    A body has to be JSON, which no form of another page can send.
    """

    def __init__(self, app: Asgi, access: Access) -> None:
        self._app = app
        self._hosts = LOCAL_NAMES | {access.host} if is_loopback(access.host) else None
        self._key = access.key.encode() if access.key else None
        self._public_paths = frozenset(access.public_paths)
        self._largest_body = access.largest_body

    async def __call__(self, scope: Any, receive: Asgi, send: Asgi) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
            body = b"" if scope["method"] in WITHOUT_BODY else await self._body(receive)
        except RequestError as error:
            await error.response()(scope, receive, _with_headers(send))
            return
        if body is not None:
            await self._app(scope, _with_body(body, receive), _with_headers(send))

    def _check(self, scope: Any) -> None:
        """Raise RequestError for a request that is refused before its body is read."""
        headers = Headers(scope=scope)
        host = _host_name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            raise RequestError(
                421,
                f"the Host header names {host!r}, another machine than this one; ask the server as "
                "127.0.0.1 or localhost, or let other machines reach it by --host and "
                "CHATPIPE_API_KEY.",
            )
        if self._key is not None and scope["path"] not in self._public_paths:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(key.strip().encode(), self._key)
            if scheme.lower() != "bearer" or not is_right:
                raise RequestError(401, "the API key is missing or wrong.", code="invalid_api_key")
        if scope["method"] not in WITHOUT_BODY:
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise RequestError(
                    415, "the body has to be JSON, with content-type application/json."
                )
        if int(headers.get("content-length") or 0) > self._largest_body:
            raise self._too_large()

    async def _body(self, receive: Asgi) -> bytes | None:
        """Return the whole body; None where the client has gone."""
        body = bytearray()
        try:
            async with asyncio.timeout(CLIENT_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._largest_body:  # sent in chunks: of a size not known before
                        raise self._too_large()
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise RequestError(408, f"the body did not arrive within {CLIENT_S} s.") from None

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body has more than {self._largest_body:,} bytes.")


def _with_body(body: bytes, receive: Asgi) -> Asgi:
    """Return what receives that body, then what follows it."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_next() -> Any:
        return next(messages, None) or await receive()

    return receive_next


def _with_headers(send: Asgi) -> Asgi:
    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(REPLY_HEADERS)
        await send(message)

    return send_with_headers


def _host_name(header: str) -> str:
    """Return the name of `name:port`, `[v6]:port` or either without a port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()

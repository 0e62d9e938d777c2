"""Who may ask: an API key, and on loopback the Host header."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers

from chatpipe.rating.serving import is_loopback
from chatpipe.serving.http_errors import RequestError

LARGEST_BODY = 8 << 20
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
Asgi = Any


class Access:
    """Middleware. On loopback a request has to name this machine as its host, or a page of any site
    could reach the server by a name that it lets point here (DNS rebinding)."""

    def __init__(
        self, app: Asgi, host: str, api_key: str | None, public_paths: Collection[str]
    ) -> None:
        self._app = app
        self._hosts = LOCAL_NAMES | {host} if is_loopback(host) else None
        self._key = api_key.encode() if api_key else None
        self._public_paths = frozenset(public_paths)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        fault = self._fault(scope) if scope["type"] == "http" else None
        if fault is None:
            await self._app(scope, _limited(receive), send)
        else:
            await fault.response()(scope, receive, send)

    def _fault(self, scope: Any) -> RequestError | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and _host_name(headers.get("host", "")) not in self._hosts:
            return RequestError(403, "the Host header names another machine than this one.")
        if int(headers.get("content-length") or 0) > LARGEST_BODY:
            return _too_large()
        if self._key is None or scope["path"] in self._public_paths:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(key.strip().encode(), self._key)
        if scheme.lower() == "bearer" and is_right:
            return None
        return RequestError(401, "the API key is missing or wrong.", code="invalid_api_key")


def _limited(receive: Asgi) -> Asgi:
    """Return what receives a body of the largest size at most: one that is sent in chunks does not
    say its size before."""
    size = 0

    async def receive_limited() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise _too_large()
        return message

    return receive_limited


def _too_large() -> RequestError:
    return RequestError(413, f"the body has more than {LARGEST_BODY:,} bytes.")


def _host_name(header: str) -> str:
    """Return the name of `name:port`, `[v6]:port` or either without a port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()

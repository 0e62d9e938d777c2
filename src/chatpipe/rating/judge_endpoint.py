"""Replies of an OpenAI-compatible endpoint, which is asked again where it is busy."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import sleep
from typing import Any

import httpx2

from chatpipe.errors import ServiceError

TIMEOUT_S = 180.0
REFUSALS = {401: "the key is not accepted", 403: "access is refused", 404: "there is no such place"}
BUSY = frozenset({429, 503, 529})  # the last one is Anthropic's
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # where the endpoint names no time of its own
MOST_WAIT_S = 120.0
SPENT = "insufficient_quota"  # OpenAI's code of a 429 that no waiting helps


class BadReplyError(Exception):
    """A reply without a verdict, or none at all; the text is the reason, short enough to count."""


class BusyError(BadReplyError):
    """The endpoint was busy for longer than is waited."""


def chat_reply(client: httpx2.Client, url: str, key: str | None, body: dict[str, Any]) -> str:
    """Return the text of a chat completion.

    Raises ServiceError where the endpoint refuses all requests, and BadReplyError where it has no
    reply to this one.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for wait in (*WAITS_S, None):
        response = _response(client, url, body, headers)
        if response.status_code not in BUSY:
            break
        server_wait = _retry_after(response)
        if wait is None or _error_code(response) == SPENT or (server_wait or 0) > MOST_WAIT_S:
            raise BusyError(_status(response))
        sleep(server_wait or wait)  # an endpoint that names 0 seconds and is busy still is
    if reason := REFUSALS.get(response.status_code):
        raise ServiceError(
            f"{url}: {reason} (HTTP {response.status_code}); the address ends with /v1, the "
            "model is one that the endpoint lists, and the key is in CHATPIPE_JUDGE_KEY."
        )
    if response.status_code != 200:
        raise BadReplyError(_status(response))
    return _content(response)


def _response(
    client: httpx2.Client, url: str, body: dict[str, Any], headers: dict[str, str]
) -> httpx2.Response:
    try:
        return client.post(f"{url.rstrip('/')}/chat/completions", json=body, headers=headers)
    except (httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise ServiceError(
            f"{url}: cannot be reached ({error}); start the endpoint, or name another."
        ) from None
    except httpx2.TimeoutException:
        raise BadReplyError(f"no reply within {TIMEOUT_S:.0f} s") from None
    except httpx2.HTTPError as error:
        raise BadReplyError(f"the connection failed ({type(error).__name__})") from None


def _retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds that the endpoint asks to wait, a number or a date in its header."""
    value = response.headers.get("Retry-After", "")
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _status(response: httpx2.Response) -> str:
    code = _error_code(response)
    return f"HTTP {response.status_code}" + (f" ({code})" if code else "")


def _error_code(response: httpx2.Response) -> str | None:
    """Return OpenAI's name for the error, where the endpoint gives one."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, LookupError, TypeError):
        return None
    return code if isinstance(code, str) else None


def _content(response: httpx2.Response) -> str:
    try:
        content: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise BadReplyError("the reply is no chat completion") from None
    if not isinstance(content, str) or not content.strip():
        raise BadReplyError("the reply is empty")
    return content

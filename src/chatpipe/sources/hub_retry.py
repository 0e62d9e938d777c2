"""Let huggingface_hub resume a file after a reset connection, as it does after a closed one.

It asks for the rest of a file when the server closed the connection too early
(RemoteProtocolError), but gives the whole file up when the connection was reset (ReadError).
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
from huggingface_hub import get_session


class _Resumable(httpx2.SyncByteStream):
    """A response body that reports a reset connection as one that was closed early."""

    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.stream
        except httpx2.ReadError as error:
            raise httpx2.RemoteProtocolError(str(error) or "connection reset") from error

    def close(self) -> None:
        self.stream.close()


def resume_after_a_reset() -> None:
    """Add the hook to huggingface_hub's session.

    Call it before each attempt: the session is replaced after a failed connection.
    """
    session = get_session()
    hooks = session.event_hooks
    if _make_resumable not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _make_resumable]}


def _make_resumable(response: httpx2.Response) -> None:
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Resumable(response.stream)

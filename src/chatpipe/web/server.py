"""Serves an application until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from chatpipe.web.access import CLIENT_S
from chatpipe.web.listening import address_of, bound_socket

TICK_S = 0.1


def serve_until_signal(
    app: FastAPI,
    address: tuple[str, int],
    on_start: Callable[[str], None],
    on_stop: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is being answered. A second Ctrl-C ends at
    once.

    Args:
        address: The host and the port; 0 is any that is free.
        on_start: Is called with the server's address as soon as it answers.
        on_stop: Is called after the signal, before what is being answered is finished.
    """
    host, port = address
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="on"
    )
    with bound_socket(host, port) as bound:
        _Server(config, lambda: on_start(address_of(host, bound)), on_stop).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Ends by returning, also after a signal, and does not wait for clients that have stalled."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_start: Callable[[], None],
        on_stop: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_stop:
            self._on_stop()
        dropping = asyncio.create_task(self._drop_stalled())
        try:
            await super().shutdown(sockets)
        finally:
            dropping.cancel()

    async def _drop_stalled(self) -> None:
        """Close connections whose clients take nothing of what was sent to them for CLIENT_S."""
        unsent: dict[asyncio.Transport, tuple[int, float]] = {}  # bytes, and since when
        while True:
            for connection in list(self.server_state.connections):
                transport = connection.transport
                size, now = transport.get_write_buffer_size(), time.monotonic()
                size_before, since = unsent.get(transport, (0, now))
                is_stalled = size >= size_before > 0
                unsent[transport] = (size, since if is_stalled else now)
                if is_stalled and now - since > CLIENT_S:
                    transport.abort()
            await asyncio.sleep(TICK_S)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        ending = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in ending}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

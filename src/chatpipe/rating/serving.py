"""Serves the rating page until it is told to stop."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from chatpipe.errors import ConfigError, ServiceError

KEY_VARIABLE = "CHATPIPE_API_KEY"


def required_key(host: str) -> str | None:
    """Return the key that requests to that address have to bring; None on this machine alone.

    ConfigError where other machines can reach it and no key is set.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    if key is None and not is_loopback(host):
        raise ConfigError(
            [
                f"--host {host}: other machines can reach this address, so a key is required; set "
                f"{KEY_VARIABLE}, or leave --host out."
            ]
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def serve_page(app: FastAPI, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `on_start` gets the page's address."""
    with bound_socket(host, port) as bound:
        bound.listen()  # who opens the page at once waits, and is not refused
        on_start(address_of(host, bound))
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        with suppress(KeyboardInterrupt):  # which uvicorn raises again after it has ended
            uvicorn.Server(config).run(sockets=[bound])


def address_of(host: str, bound: socket.socket) -> str:
    """Return the address of a server of that socket."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{bound.getsockname()[1]}/"


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket there, 0 for any free port; ServiceError where there can be none."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        raise ServiceError(
            f"{host}:{port}: cannot be served ({error.strerror or error}); choose another --port "
            "(0 takes a free one)."
        ) from None
    return bound

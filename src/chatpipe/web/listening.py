"""Where a server listens, and the key that other machines need."""

from __future__ import annotations

import ipaddress
import os
import socket

from chatpipe.errors import ConfigError, ServiceError

KEY_VARIABLE = "CHATPIPE_API_KEY"


def required_key(host: str) -> str | None:
    """Return the key that requests to that address have to bring; None on this machine alone.

    ConfigError where other machines can reach it and no key is set, and for a key that clients
    could not send.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    if key is None and not is_loopback(host):
        raise ConfigError(
            [
                f"--host {host}: other machines can reach this address, so a key is required; set "
                f"{KEY_VARIABLE}, or leave --host out."
            ]
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError(
            [
                f"{KEY_VARIABLE}: browsers and clients cannot send this key in a header; use ASCII "
                "letters, digits and signs."
            ]
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(host: str, bound: socket.socket) -> str:
    """Return the address of a server of that socket."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{bound.getsockname()[1]}/"


def check_port(host: str, port: int) -> None:
    """ServiceError where a server cannot listen there, before a model is loaded for it."""
    bound_socket(host, port).close()


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

"""One Prefect server for all tests of a process that run flows or commands."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

STARTS_WITHIN_S = 120  # on a busy machine it takes its time


@contextmanager
def used() -> Iterator[str]:
    """Flows of this process go to that server; its address."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = address()
    with temporary_settings({PREFECT_API_URL: url}):
        yield url


def address() -> str:
    """The API of the server, for the environment of commands; the first call starts it."""
    return str(_server()[0].api_url)


def stop() -> None:
    """End the server, if it was started."""
    if _server.cache_info().currsize:
        server, folder = _server()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        _server.cache_clear()


@cache
def _server() -> tuple[Any, str]:
    """The server, and the directory of its database."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings
    from prefect.testing.utilities import _find_available_port

    folder = tempfile.mkdtemp(prefix="chatpipe-tests-server-")
    database = f"sqlite+aiosqlite:///{folder}/prefect.db"
    server = SubprocessASGIServer(port=_find_available_port())
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: database}):
        server.start(timeout=STARTS_WITHIN_S)
    return server, folder

"""One Prefect server for all tests of a process that run flows or commands."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import ArtifactFilter
    from prefect.client.schemas.objects import Artifact

STARTS_WITHIN_S = 120  # on a busy machine it takes its time


@contextmanager
def used() -> Iterator[str]:
    """Send flows of this process to the server; yield its address."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = address()
    with temporary_settings({PREFECT_API_URL: url}):
        yield url


def address() -> str:
    """Return the address of the server's API. Start the server if it does not run."""
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

    server, folder = _server()
    database = f"sqlite+aiosqlite:///{folder.name}/prefect.db"
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: database}):
        server.start(timeout=STARTS_WITHIN_S)
    return str(server.api_url)


def artifacts_of_run(flow_run: UUID) -> list[Artifact]:
    """Return what that run shows in the dashboard, the oldest first."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    return _artifacts(ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run])))


def artifacts_of_key(key: str) -> list[Artifact]:
    """Return the artifacts of that key, of all runs, the oldest first."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    return _artifacts(ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def _artifacts(selected: ArtifactFilter) -> list[Artifact]:
    """Never without a filter: the server returns 200 artifacts at most, and those of all tests of a
    process are more."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(artifact_filter=selected)
    return sorted(artifacts, key=lambda artifact: artifact.created)


def everything(kind: str) -> str:
    """Return all that the server has of a kind (`logs`, `events`, …), of all runs, as JSON."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        pages = _event_pages(client) if kind == "events" else _pages(client, kind)
        return "\n".join(pages)


def _pages(client: SyncPrefectClient, kind: str) -> Iterator[str]:
    """Yield a page after the other; each has 200 items at most."""
    count = 0
    while True:
        reply = client.request("POST", f"/{kind}/filter", json={"offset": count})
        yield reply.text
        if not (items := reply.json()):
            return
        count += len(items)


def _event_pages(client: SyncPrefectClient) -> Iterator[str]:
    """Yield a page after the other; each has 50 events at most, and the next one's address."""
    reply = client.request("POST", "/events/filter", json={})
    yield reply.text
    while address := reply.json()["next_page"]:
        reply = client.request("GET", address)
        yield reply.text


def stop() -> None:
    """Stop the server if it runs. The next start has the same address and database."""
    if _server.cache_info().currsize and _server()[0].running:
        from prefect.utilities.asyncutils import run_coro_as_sync

        run_coro_as_sync(_send_logs_and_events())
        _server()[0].stop()


def remove() -> None:
    """Stop the server and remove its database."""
    if _server.cache_info().currsize:
        stop()
        _server()[1].cleanup()
        _server.cache_clear()


@cache
def _server() -> tuple[Any, tempfile.TemporaryDirectory[str]]:
    """Return the server, which is not started yet, and the directory of its database."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.testing.utilities import _find_available_port

    folder = tempfile.TemporaryDirectory(prefix="chatpipe-tests-", ignore_cleanup_errors=True)
    return SubprocessASGIServer(port=_find_available_port()), folder


async def _send_logs_and_events() -> None:
    """Send the queued logs and events of flows, as Prefect's own test harness does."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for drain in (APILogWorker.instance().drain, EventsWorker.drain_all):
        with suppress(RuntimeError):  # its thread was never started
            pending = drain()
            if inspect.isawaitable(pending):
                await pending

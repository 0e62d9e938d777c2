"""Whether the server at PREFECT_API_URL answers, and which of its work pools has no worker."""

from __future__ import annotations

from collections.abc import Iterator

from chatpipe.diagnosis.findings import Finding, fault, ok, warning
from chatpipe.server.prefect_disk import room_fault

NAME = "Prefect server"


def server_findings() -> Iterator[Finding]:
    """Yield a finding for the server, and one for each of its work pools; without a server, one
    for the directory of Prefect's records where it is of no use."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        yield ok(NAME, "PREFECT_API_URL is not set: every command starts a server of its own")
        if unwritable := room_fault():
            yield fault("PREFECT_HOME", *unwritable)
        return
    from prefect.client.orchestration import get_client

    from chatpipe.server.errors import server_error_sentence

    try:
        with get_client(sync_client=True) as client:
            pools = client.read_work_pools()
    except Exception as error:
        sentence = server_error_sentence(error) or f"{type(error).__name__}: {error}"
        yield fault(NAME, sentence.rstrip("."), "`chatpipe up` starts one on this machine")
        return
    yield ok(NAME, f"answers, with {len(pools)} work pools")
    for pool in pools:
        state = pool.status.value.lower().replace("_", " ") if pool.status else "ready"
        if state == "ready":
            yield ok(f"work pool {pool.name}", "a worker is online")
        else:
            yield warning(
                f"work pool {pool.name}",
                f"is {state}: its runs wait",
                "start a worker (docs/deployments.md), or resume the pool if it is paused",
            )

"""Which workers are online for the runs of a deployment."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound


def online_workers(deployment: str) -> int:
    """Return how many workers of the deployment's pool are online."""
    pool = _pool(deployment)
    return _online(pool) if pool else 0


def pool_without_worker(deployment: str) -> str | None:
    """Return the deployment's pool if none of its workers is online, so that a run waits."""
    pool = _pool(deployment)
    return pool if pool and not _online(pool) else None


def _pool(deployment: str) -> str | None:
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment_by_name(deployment).work_pool_name
        except ObjectNotFound:
            return None


def _online(pool: str) -> int:
    with get_client(sync_client=True) as client:
        try:
            workers = client.read_workers_for_work_pool(pool)
        except ObjectNotFound:
            return 0
    return sum(worker.status == WorkerStatus.ONLINE for worker in workers)

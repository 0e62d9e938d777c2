"""A flow for tests that kill runs: it lasts until a file is there."""

import time
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType


@flow(name="wait", persist_result=False)
def wait(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.2)


def deploy(name: str, limit: int | None) -> None:
    """Put it on the server that PREFECT_API_URL names, one run at once where that is the limit."""
    RunnerDeployment.from_flow(
        wait,
        name=name,
        work_pool_name="cpu",
        concurrency_limit=ConcurrencyLimitConfig(limit=limit) if limit else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    ).apply()


if __name__ == "__main__":
    from tests.support import waiting  # not __main__: workers import the flow by its module's name

    waiting.deploy("limited", 1)
    waiting.deploy("free", None)

"""A deployment whose pool has no worker: its runs wait, and whoever starts one reads that."""

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from flows.workers import online_workers, pool_without_worker
from tests.support import waiting


@pytest.mark.slow
@pytest.mark.usefixtures("prefect")
def test_a_pool_without_a_worker_is_named():
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="cpu", type="process"))
        waiting.deploy("free", None)
        assert pool_without_worker("wait/free") == "cpu"
        client.send_worker_heartbeat("cpu", "first")
    assert pool_without_worker("wait/free") is None
    assert online_workers("wait/free") == 1
    assert online_workers("wait/no-such-deployment") == 0

"""Steps that need a GPU are built by the workers of the GPU pool, on whatever machine they are.

Two machines: two homes and one shared store. The pool's worker here has no GPU to show for it.
"""

import pytest

from chatpipe.store.manifest import MANIFEST
from tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.live]

ON_GPU = ["-p", 'gpu_workers="gpu-steps/gpu"']


@pytest.fixture
def site(tmp_path, tiny_model_dir):
    made = Site(tmp_path, tiny_model_dir, {"CHATPIPE_SHARED_STORE": str(tmp_path / "shared")})
    made.run("chatpipe", "up", "--port", made.port)
    yield made
    made.run("chatpipe", "down")


def run(site, *more):
    site.run("prefect", "deployment", "run", "finetune/smol-merge", "--watch", *more, api=True)


def test_the_gpu_pools_workers_train_score_and_ask_and_the_rest_needs_none(site, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    worker = site.worker("gpu", CHATPIPE_HOME=str(elsewhere))
    try:
        run(site, *ON_GPU)
    finally:
        worker.terminate()
        worker.wait()
    runs = site.runs()
    assert {item["state_name"] for item in runs} == {"Completed"}
    names = sorted(item["name"].rsplit(" ", 2)[0] for item in runs)
    assert names == [
        "measure tiny-model0 and 1 more",
        "plan smol-merge",
        *["smol-merge"] * 2,
    ]
    made = _where_made(elsewhere, site.home)
    needs_gpu = {"adapter", "scores", "generations"}
    assert {home for kind, home in made if kind in needs_gpu} == {elsewhere}
    assert {home for kind, home in made if kind == "report"} == {site.home}

    run(site, *ON_GPU)  # everything is there: no worker is asked, and none is needed
    assert len(site.runs()) == len(runs) + 1
    assert site.task_states(site.latest_run()["id"]) == {"Cached"}


def _where_made(*homes):
    """(kind, home) of every artifact: a copy that was fetched is younger than what was built."""
    made = {}
    for home in homes:
        for manifest in (home / "store").glob(f"*/*/{MANIFEST}"):
            age = (manifest.stat().st_mtime_ns, home)
            made[manifest.parts[-3:-1]] = min(made.get(manifest.parts[-3:-1], age), age)
    return {(kind, home) for (kind, _), (_, home) in made.items()}

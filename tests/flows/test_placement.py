"""Steps that need a GPU are built by the workers of the GPU pool, on whatever machine they are.

Two machines: two homes and one shared store. The pool's worker here has no GPU to show for it.
"""

import json
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from chatpipe.report import read_report
from chatpipe.store.manifest import MANIFEST
from tests.support.bases import copy_of
from tests.support.site import Site
from tests.support.variants import write_settings

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


def test_a_study_runs_on_all_workers_and_goes_on_without_a_variant_that_fails(
    site, tmp_path, tiny_model_dir
):
    _write_study(site, _broken_base(tmp_path, tiny_model_dir))
    site.run("chatpipe", "deploy", api=True)
    workers = [site.worker("gpu") for _ in range(2)]  # one store, as on one machine
    try:
        _until(lambda: _online(site, "gpu") == 2, 60)
        site.run("prefect", "deployment", "run", "compare/demo", *ON_GPU, api=True)
        [study] = site.runs()
        _until(lambda: _run(site, study["id"])["state_type"] in ("FAILED", "COMPLETED"), 400)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
    study = _run(site, study["id"])
    assert study["state_name"] == "Incomplete", (study["state"], site.logs())
    missing = [line for line in study["state"]["message"].splitlines() if "missing from" in line]
    assert len(missing) == 1 and missing[0].startswith("broken is missing")
    assert "finite" in missing[0]
    report = read_report(site.home / "reports" / "demo")
    assert [model.name for model in report.variants] == ["smol-merge", "same"]
    assert [model.name for model in report.missing] == ["broken"]

    names = sorted(run["name"].rsplit(" ", 2)[0] for run in site.runs())
    assert names == [  # a base's models are divided, so that both workers have something to do
        "broken",
        "demo",
        "measure smol-merge",
        "measure tiny-model0",
        "plan smol-merge and 2 more",
        "smol-merge",
    ]
    built = [
        run["name"]
        for run in site.ask("task_runs/filter")
        if run["state_name"] == "Completed" and run["name"] != "plan"
    ]
    assert len(built) == len(set(built))
    states = sorted(row["state"] for row in _table(site, "demo-cells"))
    assert states == ["failed", *3 * ["measured"]]


def test_a_worker_trains_what_shares_passes_and_each_variant_has_its_own_state(site):
    """One of three fails: its own step, and nothing else."""
    failing = {"epochs": 1, "learning_rate": 1e-300}
    trainings = {"slow": {"learning_rate": 0.005}, "long": {"epochs": 2}, "failing": failing}
    for name, training in trainings.items():
        variant = yaml.safe_load((site.deployments / "variants" / "smol-merge.yaml").read_text())
        settings = {"train_together": 4, "training": {**variant["training"], **training}}
        write_settings(site.deployments / "variants" / f"{name}.yaml", variant | settings)
    write_settings(site.deployments / "studies" / "demo.yaml", {"variants": [*trainings]})
    site.run("chatpipe", "deploy", api=True)
    worker = site.worker("gpu")
    try:
        site.run("prefect", "deployment", "run", "compare/demo", *ON_GPU, api=True)
        [study] = site.runs()
        _until(lambda: _run(site, study["id"])["state_type"] in ("FAILED", "COMPLETED"), 300)
    finally:
        worker.terminate()
        worker.wait()
    study = _run(site, study["id"])
    assert study["state_name"] == "Incomplete", (study["state"], site.logs())
    [missing] = [line for line in study["state"]["message"].splitlines() if "missing from" in line]
    assert missing.startswith("failing is missing") and "all zero" in missing
    [trained] = [run for run in site.runs() if run["name"].startswith("long and 2 more")]
    tasks = site.ask("task_runs/filter", flow_runs={"id": {"any_": [trained["id"]]}})
    assert {task["name"]: task["state_name"] for task in tasks} == {
        "fine-tune long": "Completed",
        "fine-tune slow": "Completed",
        "fine-tune failing": "Failed",
    }
    adapters = [json.loads(p.read_text()) for p in site.home.glob(f"store/adapter/*/{MANIFEST}")]
    assert [adapter["details"]["trained_together"] for adapter in adapters] == [3, 3]
    states = {row["model"]: row["state"] for row in _table(site, "demo-cells")}
    assert states.pop("failing") == "failed" and set(states.values()) == {"measured"}


def _table(site, key):
    """The newest table of that key."""
    tables = site.ask(
        "artifacts/filter", sort="CREATED_DESC", artifacts={"type": {"any_": ["table"]}}
    )
    return json.loads(next(one["data"] for one in tables if one["key"] == key))


def _until(condition, within_s):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(1)


def _broken_base(folder, model):
    """A base whose weights are not finite, which shows when it is loaded."""
    [file] = copy_of(model, folder / "broken").glob("*.safetensors")
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, file, {"format": "pt"})
    return folder / "broken"


def _write_study(site, broken):
    """Two variants with the same settings, and one that cannot be trained."""
    variants = site.deployments / "variants"
    variant = yaml.safe_load((variants / "smol-merge.yaml").read_text())
    write_settings(variants / "broken.yaml", variant | {"base_model": {"repo": str(broken)}})
    write_settings(variants / "same.yaml", variant)
    study = {"variants": ["smol-merge", "same", "broken"]}
    write_settings(site.deployments / "studies" / "demo.yaml", study)


def _online(site, pool):
    workers = site.ask(f"work_pools/{pool}/workers/filter")
    return sum(worker["status"] == "ONLINE" for worker in workers)


def _run(site, run_id):
    return site.ask(f"flow_runs/{run_id}", method="GET")


def _where_made(*homes):
    """(kind, home) of every artifact: a copy that was fetched is younger than what was built."""
    made = {}
    for home in homes:
        for manifest in (home / "store").glob(f"*/*/{MANIFEST}"):
            age = (manifest.stat().st_mtime_ns, home)
            made[manifest.parts[-3:-1]] = min(made.get(manifest.parts[-3:-1], age), age)
    return {(kind, home) for (kind, _), (_, home) in made.items()}

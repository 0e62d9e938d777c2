"""Tracking for real: TensorBoard's event files and a local MLflow; nothing leaves the machine."""

import importlib.util
import json
import tomllib
from functools import partial
from pathlib import Path

import pytest

from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.planning.checks import check_variant
from chatpipe.report.build import MakeReport
from chatpipe.report.measured import Measured
from chatpipe.report.settings import settings
from chatpipe.store.store import store
from chatpipe.study.loading import load_variant
from chatpipe.training.finetune import Finetune
from chatpipe.training.tracking import Tracked, folder, missing, run_name
from tests.support.requests import finetune_request

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


@pytest.fixture
def request_(chatpipe_home, tiny_model_dir):
    return finetune_request(chatpipe_home, tiny_model_dir, 12, epochs=2)


def tracked_by(tracker, request):
    return request.model_copy(update={"tracked": Tracked(tracker=tracker, variant="tiny")})


def train(request, tracker):
    """(adapter, its request), trained in a process of its own as in a run."""
    from chatpipe.runtime.worker import SharedWorker

    tracked = tracked_by(tracker, request)
    build = partial(SharedWorker().build, tracked, on_progress=print, on_line=print)
    return store().get_or_build(tracked, build), tracked


def test_where_a_training_is_tracked_is_in_no_key(request_):
    keys = {
        request_.model_copy(update={"tracked": tracked}).key()
        for tracked in (
            None,
            Tracked(tracker="mlflow", variant="a"),
            Tracked(tracker="wandb", variant="b"),
        )
    }
    assert len(keys) == 1
    reports = {
        MakeReport(study="s", models=(measured(request_, tracker),), examples={}, heldout={}).key()
        for tracker in ("none", "mlflow")
    }
    assert len(reports) == 1
    assert "tracking" not in settings(measured(request_, "mlflow").variant)


def measured(request, tracker):
    variant = load_variant("smol-alpaca", [f"tracking={tracker}"])
    return Measured(
        name="m",
        base_model="b",
        variant=variant,
        adapter=None,
        corpus=None,
        scores={},
        generations=request.corpus,
    )


def test_a_variant_is_not_tracked_unless_it_says_so(request_):
    def asked(*overrides):
        variant = load_variant("smol-alpaca", overrides)
        return Finetune.of(variant, request_.base, request_.corpus).tracked

    assert asked() is None and asked("tracking=none") is None
    assert asked("tracking=mlflow") == Tracked(tracker="mlflow", variant="smol-alpaca")
    with pytest.raises(ConfigError, match="tracking"):
        asked("tracking=mlfow")


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_in_a_sentence(tracker, chatpipe_home, tmp_path):
    variant = load_variant("smol-alpaca", [f"tracking={tracker}"])
    if importlib.util.find_spec(tracker):
        assert missing(tracker) is None
        check_variant(variant)
        return
    with pytest.raises(ConfigError, match=f"tracking: {tracker} is not installed; pip install"):
        check_variant(variant)


def test_every_tracker_is_an_extra_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    assert set(TRACKERS) <= set(project["optional-dependencies"])
    assert set(TRACKERS) | {"none"} == set(Variant.model_fields["tracking"].annotation.__args__)


@pytest.mark.slow
def test_tensorboard_holds_losses_and_manifest_and_the_adapter_is_the_untracked_one(request_):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    adapter, tracked = train(request_, "tensorboard")
    place = folder("tensorboard") / run_name(tracked.tracked, tracked.key())
    assert place.name == f"tiny-{adapter.key[:8]}"
    events = EventAccumulator(str(place)).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    history = adapter.details()["loss_history"]
    assert [step for step, _ in losses] == [point["step"] for point in history]
    assert [value for _, value in losses] == pytest.approx([point["loss"] for point in history])
    [text] = events.Tensors("manifest/text_summary")
    manifest = json.loads(text.tensor_proto.string_val[0].decode().strip("`").removeprefix("json"))
    assert manifest["key"] == adapter.key
    assert manifest["asked"]["corpus"]["digest"] == request_.corpus.digest
    store().forget(adapter.path)
    assert store().get_or_build(request_).digest == adapter.digest


@pytest.mark.slow
def test_a_local_mlflow_holds_the_losses_and_the_manifest_and_leaves_nothing_elsewhere(
    request_, tmp_path, monkeypatch
):
    import mlflow

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    adapter, _ = train(request_, "mlflow")
    assert list(elsewhere.iterdir()) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder('mlflow') / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("chatpipe").experiment_id])
    assert run.info.run_name == f"tiny-{adapter.key[:8]}" and run.info.status == "FINISHED"
    history = adapter.details()["loss_history"]
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert losses == pytest.approx([point["loss"] for point in history])
    assert run.data.params["learning_rate"] == "0.02"
    manifest = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/manifest.json")
    assert manifest["key"] == adapter.key and "torch" in manifest["versions"]


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_where_they_are_installed_the_others_keep_name_and_manifest_here(request_, tracker):
    pytest.importorskip(tracker)
    adapter, _ = train(request_, tracker)
    kept = b"".join(path.read_bytes() for path in folder(tracker).rglob("*") if path.is_file())
    assert f"tiny-{adapter.key[:8]}".encode() in kept
    assert adapter.key.encode() in kept and request_.corpus.digest.encode() in kept


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_run_that_was_not_checked_beforehand_ends_with_the_same_sentence(request_):
    from chatpipe.errors import TrainingError

    with pytest.raises(TrainingError, match=r"pip install 'chatpipe\[wandb\]'"):
        store().get_or_build(tracked_by("wandb", request_))

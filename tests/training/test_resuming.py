"""A training that was ended at any moment, or whose checkpoints are torn, gives the adapter of the
uninterrupted one, byte for byte."""

import logging
import os
import shutil
import time

import pytest

from chatpipe.config.schema import Quantization
from chatpipe.store.store import store
from tests.support.requests import finetune_request

pytestmark = pytest.mark.slow
FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
STATE = "trainer_state.json"
STEPS = 10


class PowerCutError(BaseException):
    """Ends a training as if the machine had lost its power."""


@pytest.fixture
def cut_at(monkeypatch):
    """A function that trains a request until its `step`, where the power is cut."""

    def train(request, step):
        from transformers import TrainerCallback

        from chatpipe.training import finetune, tracking

        class Cut(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == step:
                    raise PowerCutError

        with monkeypatch.context() as patch:
            patch.setattr(finetune.tracking, "callbacks", lambda *_: [Cut()])
            assert finetune.tracking is tracking
            with pytest.raises(PowerCutError):
                store().get_or_build(request)
        return store().work_path(request.kind, request.key())

    return train


def cut_before_the_end(patch, request):
    """Train to the last step, and cut the power before the adapter is saved."""
    from chatpipe.training import finetune

    def cut(*_):
        raise PowerCutError

    patch.setattr(finetune, "check_adapter", cut)
    with pytest.raises(PowerCutError):
        store().get_or_build(request)


def digest_of_uninterrupted(request):
    adapter = store().get_or_build(request)
    assert not adapter.details()["resumed"]
    store().forget(adapter.path)
    return adapter.digest


def request_for(home, model, **training):
    settings = {"epochs": 2, "micro_batch_tokens": 300, "save_steps": 2, **training}
    request = finetune_request(home, model, 20, **settings)  # 17 to train on, 5 steps an epoch
    return request.model_copy(update={"lora": request.lora.model_copy(update={"dropout": 0.2})})


@pytest.mark.parametrize(
    ("training", "method", "step"),
    [
        ({"schedule": "cosine", "warmup_ratio": 0.3}, "nf4", 3),
        ({"schedule": "linear", "save_steps": 5}, "none", 6),  # at an epoch's border
        ({"schedule": "constant", "weight_decay": 0.1}, "none", 7),
        ({"gradient_checkpointing": True}, "nf4", 5),
        ({"micro_batch_tokens": 16}, "none", 5),  # several packs a step
    ],
)
def test_a_resumed_training_gives_the_bytes_of_an_uninterrupted_one(
    chatpipe_home, tiny_model_dir, cut_at, training, method, step
):
    request = request_for(chatpipe_home, tiny_model_dir, **training)
    quantization = Quantization(method=method, compute_dtype="float32")
    request = request.model_copy(update={"quantization": quantization})
    digest = digest_of_uninterrupted(request)
    cut_at(request, step)
    adapter = store().get_or_build(request)
    assert adapter.digest == digest
    details = adapter.details()
    assert details["resumed"] and details["optimizer_steps"] == STEPS
    assert [point["step"] for point in details["loss_history"]] == list(range(1, STEPS + 1))


def as_if_written_by(torn_work, **setup):
    """The checkpoints in their place, as if another setup had written them."""
    from chatpipe.training.checkpoints import read_checkpoint, write_checkpoint_manifest

    request, _, whole = torn_work
    work = store().work_path(request.kind, request.key())
    shutil.copytree(whole, work, dirs_exist_ok=True)
    for path in work.glob("checkpoint-*"):
        checkpoint = read_checkpoint(path)
        write_checkpoint_manifest(path, checkpoint.seconds, {**checkpoint.setup, **setup})


def test_going_on_with_other_libraries_is_said_and_recorded(torn_work, caplog):
    request, digest, _ = torn_work
    as_if_written_by(torn_work, versions={"torch": "1.0"})
    with caplog.at_level(logging.WARNING):
        adapter = store().get_or_build(request)
    details = adapter.details()
    assert "was written with torch 1.0 (now " in caplog.text
    assert adapter.digest == digest  # these were the same libraries
    assert details["resumed"] and details["resumed_from"]["versions"] == {"torch": "1.0"}


def test_dropout_of_another_number_of_processes_starts_anew(torn_work, caplog):
    request, digest, _ = torn_work
    as_if_written_by(torn_work, processes=4)
    with caplog.at_level(logging.WARNING):
        adapter = store().get_or_build(request)
    assert adapter.digest == digest and not adapter.details()["resumed"]
    assert "4 processes (now 1), which draw other dropout: training starts anew" in caplog.text


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 5), (1.5, 8)])
def test_after_its_last_step_a_training_makes_no_further_one(
    chatpipe_home, tiny_model_dir, monkeypatch, epochs, steps
):
    """Cut after the last checkpoint and before the adapter is in the store."""
    request = request_for(chatpipe_home, tiny_model_dir, epochs=epochs)
    digest = digest_of_uninterrupted(request)
    with monkeypatch.context() as patch:
        cut_before_the_end(patch, request)
    adapter = store().get_or_build(request)
    assert adapter.digest == digest
    assert adapter.details()["optimizer_steps"] == steps
    assert adapter.details()["tokens_per_s"] > 0


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "missing"])
@pytest.mark.parametrize("name", [*FILES, STATE, "checkpoint.json"])
def test_a_torn_checkpoint_is_dropped_and_the_one_before_it_taken(torn_work, name, damage, caplog):
    request, digest, whole = torn_work
    work = store().work_path(request.kind, request.key())
    shutil.copytree(whole, work, dirs_exist_ok=True)
    tear(work / "checkpoint-10" / name, damage)
    with caplog.at_level(logging.WARNING):
        adapter = store().get_or_build(request)
    assert adapter.digest == digest
    assert adapter.details()["resumed"]
    assert "checkpoint-10 is damaged and dropped" in caplog.text
    assert "resuming from checkpoint-8" in caplog.text


def test_where_no_checkpoint_is_whole_training_starts_anew(torn_work, caplog):
    request, digest, whole = torn_work
    work = store().work_path(request.kind, request.key())
    shutil.copytree(whole, work, dirs_exist_ok=True)
    tear(work / "checkpoint-10/optimizer.pt", "half")
    (work / "checkpoint-8/scheduler.pt").unlink()
    (work / "seconds.json").write_text("{")  # as earlier versions left it
    adapter = store().get_or_build(request)
    assert adapter.digest == digest and not adapter.details()["resumed"]


def test_a_clock_set_back_does_not_remove_the_newest_checkpoint(torn_work, monkeypatch):
    request, _, whole = torn_work
    work = store().work_path(request.kind, request.key())
    shutil.copytree(whole, work, dirs_exist_ok=True)
    tomorrow = time.time() + 24 * 3600
    shutil.move(work / "checkpoint-10", work / "checkpoint-6")
    for path in work.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    cut_before_the_end(monkeypatch, request)
    assert {path.name for path in work.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-10"}


def tear(file, damage):
    """Damage a file as a power cut, a full disk or a bad block does."""
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "flipped":
        place = len(content) // 2
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "half" else b"")


@pytest.fixture(scope="module")
def whole_work(tmp_path_factory, tiny_model_dir):
    """(home, request, digest of the uninterrupted adapter, a work directory of its end)."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPIPE_HOME", str(home))
        request = request_for(home, tiny_model_dir)
        digest = digest_of_uninterrupted(request)
        cut_before_the_end(patch, request)
        whole = home / "whole"
        work = store().work_path(request.kind, request.key())
        shutil.move(work, whole)
    return home, request, digest, whole


@pytest.fixture
def torn_work(whole_work, monkeypatch):
    home, request, digest, whole = whole_work
    monkeypatch.setenv("CHATPIPE_HOME", str(home))
    yield request, digest, whole
    adapter = store().find(request.kind, request.key())
    if adapter:
        store().forget(adapter.path)
    shutil.rmtree(store().work_path(request.kind, request.key()))

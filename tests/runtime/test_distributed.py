"""Several processes that train together: the same rows a step, the same training."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from chatpipe.errors import ConfigError
from chatpipe.runtime.processes import PROCESSES, SHARDING, processes, sharding
from chatpipe.store.store import store
from chatpipe.training.sampler import GlobalBatches
from tests.support.requests import finetune_request


def test_processes_share_the_rows_of_each_step():
    together = list(GlobalBatches(23, 8, seed=3))
    shares = [list(GlobalBatches(23, 8, seed=3, rank=rank, world=3)) for rank in range(3)]
    assert [len(step) for step in together] == [8, 8, 7]
    for number, step in enumerate(together):
        assert sorted(row for share in shares for row in share[number]) == sorted(step)


def test_every_epoch_has_an_order_of_its_own_and_the_same_again():
    batches = GlobalBatches(50, 8, seed=0)
    first = list(batches)
    batches.set_epoch(1)
    assert list(batches) != first
    batches.set_epoch(0)
    assert list(batches) == first
    assert list(GlobalBatches(50, 8, seed=1)) != first


def test_a_process_may_be_left_without_rows_in_the_last_step():
    steps = list(GlobalBatches(5, 4, seed=0, rank=1, world=2))
    assert [len(step) for step in steps] == [2, 0]


def test_the_number_of_processes_is_checked(monkeypatch):
    monkeypatch.setenv(PROCESSES, "two")
    with pytest.raises(ConfigError, match="CHATPIPE_PROCESSES=two"):
        processes()


def test_no_two_processes_share_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv(PROCESSES, "3")
    with pytest.raises(ConfigError, match=r"CHATPIPE_PROCESSES=3: .* 2 are visible"):
        processes()
    monkeypatch.setenv(PROCESSES, "1")
    assert processes() == 1


def test_how_to_share_a_base_is_checked(monkeypatch):
    monkeypatch.delenv(SHARDING, raising=False)
    assert sharding() == "auto"
    monkeypatch.setenv(SHARDING, "yes")
    with pytest.raises(ConfigError, match="CHATPIPE_SHARDING=yes: must be auto, always or never"):
        sharding()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["never", "always"])
def test_two_processes_train_as_one_does(chatpipe_home, tiny_model_dir, monkeypatch, how):
    """21 rows in steps of 5, each a pack of its own: one process has a row more than the other, and
    in the last step of an epoch the other has none."""
    from safetensors.torch import load_file

    request = finetune_request(
        chatpipe_home, tiny_model_dir, 25, epochs=2, micro_batch_tokens=16, global_batch_size=5
    )
    alone = store().get_or_build(request)
    weights = load_file(alone.path / "adapter_model.safetensors")
    losses = [point["loss"] for point in alone.details()["loss_history"]]
    store().forget(alone.path)
    monkeypatch.setenv(PROCESSES, "2")
    monkeypatch.setenv(SHARDING, how)
    together = store().get_or_build(request)
    details = together.details()
    assert details["base_shared"] is (how == "always")
    assert details["processes"] == 2 and alone.key == together.key
    assert details["rows_trained"] == 21
    assert [point["loss"] for point in details["loss_history"]] == pytest.approx(losses, rel=1e-3)
    for name, weight in load_file(together.path / "adapter_model.safetensors").items():
        assert torch.allclose(weight, weights[name], rtol=0.02, atol=2e-4), name


@pytest.mark.slow
def test_what_fails_in_several_processes_fails_in_one_sentence(
    chatpipe_home, tiny_model_dir, monkeypatch
):
    request = finetune_request(chatpipe_home, tiny_model_dir, 24)
    lora = request.lora.model_copy(update={"target_modules": ("no_such_layer",)})
    monkeypatch.setenv(PROCESSES, "2")
    with pytest.raises(ConfigError, match="no_such_layer"):
        store().get_or_build(request.model_copy(update={"lora": lora}))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the signal")
def test_all_processes_end_with_the_one_that_asked_for_them(
    chatpipe_home, tiny_model_dir, tmp_path
):
    """Killed without a word, as the kernel does when memory is out."""
    import psutil

    request = finetune_request(chatpipe_home, tiny_model_dir, 60, epochs=90)
    asked = tmp_path / "asked.json"
    asked.write_text(request.model_dump_json(), "utf-8")
    code = (
        "import sys; from pathlib import Path; "
        "from chatpipe.runtime.launcher import build_together; "
        "from chatpipe.training.finetune import Finetune; "
        "build_together(Finetune.model_validate_json(Path(sys.argv[1]).read_text()), "
        "Path(sys.argv[2]), 2)"
    )
    (tmp_path / "into").mkdir()
    asker = subprocess.Popen([sys.executable, "-c", code, str(asked), str(tmp_path / "into")])
    made: list[psutil.Process] = []
    end = time.monotonic() + 60
    while len(made) < 3 and time.monotonic() < end:  # the launcher, and both that train
        time.sleep(0.5)
        made = psutil.Process(asker.pid).children(recursive=True)
    assert len(made) >= 3
    asker.kill()
    asker.wait()
    _, alive = psutil.wait_procs(made, timeout=60)
    assert not alive


TRAINS = """
import sys
from pathlib import Path
from chatpipe.runtime.worker import SharedWorker
from chatpipe.training.finetune import Finetune
request = Finetune.model_validate_json(Path(sys.argv[1]).read_text())
SharedWorker().build(request, Path(sys.argv[2]), print, print)
"""


@pytest.mark.slow
def test_processes_that_are_asked_to_end_save_one_checkpoint_that_each_goes_on_from(
    chatpipe_home, tiny_model_dir, tmp_path, monkeypatch
):
    request = finetune_request(
        chatpipe_home, tiny_model_dir, 25, epochs=8, learning_rate=1e-4, save_steps=1000
    )
    request = request.model_copy(update={"lora": request.lora.model_copy(update={"dropout": 0.1})})
    monkeypatch.setenv(PROCESSES, "2")
    uninterrupted = store().get_or_build(request)
    store().forget(uninterrupted.path)
    (tmp_path / "into").mkdir()
    (tmp_path / "request.json").write_text(request.model_dump_json(), "utf-8")
    arguments = [str(tmp_path / "request.json"), str(tmp_path / "into")]
    asker = subprocess.Popen(
        [sys.executable, "-u", "-c", TRAINS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert any(line.startswith("done=") for line in asker.stdout)
    os.killpg(asker.pid, signal.SIGINT)
    _, error = asker.communicate(timeout=150)  # more than the asker's own limit
    assert "saving a checkpoint; press Ctrl-C again" in error
    work = store().work_path(request.kind, request.key())
    [checkpoint] = work.glob("checkpoint-*/checkpoint.json")
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {p.name for p in checkpoint.parent.iterdir()}
    adapter = store().get_or_build(request)
    assert adapter.details()["resumed"]
    assert adapter.digest == uninterrupted.digest

"""A training whose passes, chosen by `auto`, have no room: smaller ones, and the same adapter."""

from types import SimpleNamespace

import pytest
import torch

from chatpipe.config.schema import Training
from chatpipe.kernels.switch import VARIABLE
from chatpipe.models.memory import Batch
from chatpipe.packing import batching
from chatpipe.store.store import store
from chatpipe.tokenization.encoder import TokenizedRow
from chatpipe.training.passes import Passes, agreed_pass
from tests.support.requests import finetune_request

pytestmark = pytest.mark.slow


@pytest.fixture
def trained(chatpipe_home, tiny_model_dir, monkeypatch):
    """(weights, details) of a training in which these passes, counted from 1, have no room."""
    monkeypatch.setenv(VARIABLE, "packing")  # no threads: no GPU has any
    packed = batching.PACKED

    def train(failing=(), **training):
        calls = iter(range(1, 10_000))

        def nats(model, batch):
            if next(calls) in failing:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return packed.nats(model, batch)

        monkeypatch.setattr(batching, "PACKED", packed._replace(nats=nats))
        request = finetune_request(chatpipe_home, tiny_model_dir, 12, epochs=1, **training)
        adapter = store().get_or_build(request)
        weights = (adapter.path / "adapter_model.safetensors").read_bytes()
        details = adapter.details()
        store().forget(adapter.path)
        return weights, details

    return train


def test_a_step_without_room_is_tried_again_in_half_the_tokens_and_gives_the_same_adapter(trained):
    """The first pass fails, then the second of those that it was divided into: what the first of
    these left must not count twice."""
    weights, details = trained(failing=(1, 3))
    first, second = details["out_of_memory"]
    assert first["step"] == second["step"] == 1
    assert second["micro_batch_tokens"] == details["micro_batch_tokens"]
    assert second["micro_batch_tokens"] == first["micro_batch_tokens"] // 2
    assert details["checkpoint_every"] == 0
    expected, plainly = trained(micro_batch_tokens=second["micro_batch_tokens"])
    assert weights == expected and "out_of_memory" not in plainly
    assert details["loss_history"] == plainly["loss_history"]


def test_where_each_row_has_a_pass_for_itself_layers_are_computed_again(trained):
    weights, details = trained(failing=(6,), micro_batch_tokens=16)  # in the second step
    assert details["out_of_memory"] == [
        {"step": 2, "micro_batch_tokens": 16, "checkpoint_every": 1}
    ]
    expected, _ = trained(micro_batch_tokens=16, gradient_checkpointing=True)
    assert weights == expected


@pytest.mark.parametrize(
    ("failing", "training"),
    [
        ((1,), {"micro_batch_tokens": 2048, "gradient_checkpointing": False}),
        ((1, 2), {"micro_batch_tokens": 16}),
    ],
)
def test_what_settings_say_is_not_changed_and_the_error_is_raised(trained, failing, training):
    with pytest.raises(torch.OutOfMemoryError):
        trained(failing, **training)


def test_of_several_processes_the_next_start_has_the_smaller_passes(tmp_path):
    batch = Batch(tokens=8192, scored=4096)
    rows = [[TokenizedRow([1] * 500, [1] * 500, 0)] for _ in range(8)]
    pair = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=2), state=SimpleNamespace(global_step=6)
    )
    passes = Passes(Training(), batch, tmp_path)
    assert passes.max_tokens == 8192 and not passes.make_smaller(pair, rows, 1)
    assert agreed_pass(batch, 1, tmp_path, 500) == Batch(tokens=2000, scored=1000)
    assert agreed_pass(batch, 1, tmp_path, 2500).tokens == 2500  # the longest row alone

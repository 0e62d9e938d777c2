"""How large the passes of a training are where settings leave it to the memory model."""

import pytest
from transformers import LlamaConfig

from chatpipe.config.schema import Dataset, Lora, Training, Variant
from chatpipe.kernels.switch import VARIABLE
from chatpipe.models.memory import Device, estimate
from chatpipe.models.passes import StepRows, largest_pass
from chatpipe.models.placement import fit
from chatpipe.models.shapes import shapes_of_config
from chatpipe.runtime.processes import SHARDING

SHAPES = shapes_of_config(
    LlamaConfig(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32
    ),
    Lora(),
)
SHORT_ROWS = StepRows(64, 512, 0.5)


@pytest.fixture(autouse=True)
def defaults(monkeypatch):
    monkeypatch.delenv(SHARDING, raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)


def asked(**training):
    datasets = (Dataset(name="rows", repo="some/rows"),)
    return Variant(
        name="mine", datasets=datasets, training=Training(global_batch_size=64, **training)
    )


def gpu(gib, count=1, kind="cuda"):
    return Device(kind=kind, name="it", compute_bytes=2, free_bytes=gib * 2**30, count=count)


def chosen(device, rows=SHORT_ROWS, **training):
    """(tokens, every so many layers one is computed again, shares, dequantized) of LLaMA 7B."""
    settings = asked(**training)
    batch = largest_pass(SHAPES, settings, rows, device)
    found = fit(SHAPES, settings, batch, device)
    assert batch.scored == round(batch.tokens * rows.scored_share)
    return batch.tokens, batch.checkpoint_every, found.shares, found.dequantized


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (gpu(141), (15360, 0, 1, True)),
        (gpu(80), (7168, 0, 1, True)),
        (gpu(40), (4096, 0, 1, False)),
        (gpu(24), (2048, 0, 1, False)),
        (gpu(16), (1024, 0, 1, False)),
        (gpu(12), (1024, 2, 1, False)),
        (gpu(8), (3072, 1, 1, False)),
        (gpu(4), (512, 1, 1, False)),  # the longest row alone; the plan refuses it
        (gpu(5, count=4), (2048, 1, 4, False)),
        (gpu(2, kind="cpu"), (2048, 1, 1, False)),
        (gpu(100, kind="cpu"), (2048, 0, 1, False)),
    ],
)
def test_passes_are_as_large_as_the_device_has_room_for(device, expected):
    assert chosen(device) == expected


@pytest.mark.parametrize("gib", [8, 12, 16, 24, 40, 80, 141])
def test_what_is_chosen_fits_with_a_margin_and_the_next_larger_pass_does_not(gib):
    batch = largest_pass(SHAPES, asked(), SHORT_ROWS, gpu(gib))
    needed = fit(SHAPES, asked(), batch, gpu(gib))
    assert needed.total <= 0.85 * gib * 2**30
    larger = batch.model_copy(update={"tokens": 2 * batch.tokens, "scored": 2 * batch.scored})
    if batch.tokens < 16384:
        dequantized = needed.dequantized
        more = estimate(SHAPES, asked(), larger, gpu(gib), dequantized=dequantized)
        assert more.total > 0.85 * gib * 2**30


def test_a_pass_is_never_larger_than_what_a_step_gives_one_gpu():
    rows = StepRows.of(asked().training, 50_000, 100, 0.5)
    assert chosen(gpu(80), rows)[0] == 64 * 100
    assert chosen(gpu(80, count=4), rows)[0] == 16 * 100
    assert chosen(gpu(80), StepRows(3, 100, 0.5))[0] == 3 * 100
    assert chosen(gpu(80), StepRows(9, 12000, 0.5))[:2] == (12000, 4)  # the longest row alone


def test_trainings_together_have_the_rows_of_all_beside_all_adapters():
    few = StepRows.of(Training(global_batch_size=2), 50_000, 512, 0.5)
    four = StepRows.together([few] * 4)
    assert chosen(gpu(80), few)[0] == 2 * 512 and chosen(gpu(80), four)[0] == 8 * 512
    many = StepRows.together([SHORT_ROWS] * 32)
    tokens = [largest_pass(SHAPES, asked(), rows, gpu(80)).tokens for rows in (SHORT_ROWS, many)]
    assert tokens[1] < tokens[0]  # adapters and their optimizers' states take the rest
    batch = largest_pass(SHAPES, asked(), many, gpu(80))
    assert fit(SHAPES, asked(), batch, gpu(80)).total <= 0.85 * 80 * 2**30


def test_what_settings_say_is_kept_and_the_other_half_is_chosen():
    assert chosen(gpu(80), micro_batch_tokens=512)[:2] == (512, 0)
    assert chosen(gpu(16), micro_batch_tokens=8192)[:2] == (8192, 1)
    assert chosen(gpu(16), micro_batch_tokens=8192, gradient_checkpointing=False)[:2] == (8192, 0)
    assert chosen(gpu(80), gradient_checkpointing=True)[:2] == (16384, 1)
    assert chosen(gpu(12), gradient_checkpointing=False)[:2] == (768, 0)


def test_where_memory_or_shapes_are_not_known_passes_are_those_of_a_cpu():
    unknown = gpu(80).model_copy(update={"free_bytes": None})
    batches = [
        largest_pass(None, asked(), SHORT_ROWS, gpu(80)),
        largest_pass(SHAPES, asked(), SHORT_ROWS, unknown),
    ]
    assert [(batch.tokens, batch.checkpoint_every) for batch in batches] == [(2048, 0)] * 2

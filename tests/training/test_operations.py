"""The operations that a benchmark divides by, against those that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training
from chatpipe.config.schema import Lora, Quantization
from chatpipe.models.shapes import shapes_of
from chatpipe.packing.packing import packed_nats
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.trainer import BatchCollator, batch_training
from tests.support.tiny import tiny_model


def in_place(sums, left, right, **_):
    """Of addmm_, by shapes; torch counts only addmm."""
    return 2 * left[0] * left[1] * right[1]


def attention(query, key, value, *_, **__):
    """The six products of a head, two forward and four backward, by the forward pass's shapes:
    torch counts none of this operator."""
    heads, length, size = query[1:]
    return 6 * 2 * heads * length * key[2] * size


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def rows():
    """All begin alike; they end differently, in different lengths, and that is scored."""
    common = list(range(2, 32))
    ends = [[40 + number] * (12 + number) for number in range(training.GLOBAL_BATCH)]
    return [TokenizedRow(common + end, [IGNORED] * 30 + end, 0) for end in ends]


def test_they_are_those_that_torch_counts(base, rows, monkeypatch):
    monkeypatch.setattr(training, "LORA", Lora(rank=4, dropout=0.0))
    monkeypatch.setattr(training, "QUANTIZATION", Quantization(compute_dtype="bfloat16"))
    model = training.with_adapter(
        training.load_fast_base(base, training.QUANTIZATION), training.LORA
    )
    collate = BatchCollator(4096)
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {torch.ops.aten.addmm_: in_place, attend: attention}
    counting = FlopCounterMode(display=False, custom_mapping=mapping)
    with batch_training(model.train()), counting as counter:
        for packed in collate([[row] for row in rows])["batches"]:
            packed_nats(model, packed).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    work = training.packed_work(rows, collate)
    expected = training.operations(base, work)
    assert counts[attend] == expected["attention"]
    # Nothing is learned below the first layer: its queries, keys and values give no gradient to
    # their input.
    hidden = shapes_of(base, training.LORA).hidden
    unneeded = 2 * work["computed_tokens"] * 3 * hidden * (hidden + training.LORA.rank)
    assert counter.get_total_flops() - counts[attend] + unneeded == expected["linear"]

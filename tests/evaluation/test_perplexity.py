"""The measures against independent computations."""

import math
from copy import deepcopy

import numpy as np
import pyarrow as pa
import pytest
import torch

from chatpipe.config.prompts import template
from chatpipe.errors import ModelError
from chatpipe.evaluation.perplexity import (
    bits_per_byte,
    difference,
    interval,
    paper_perplexity,
    perplexity,
)
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.models.loading import load_tokenizer
from chatpipe.packing.packing import pack, packs
from chatpipe.tokenization.encoder import IGNORED, Encoder
from tests.support.rows import alpaca_rows


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=["every_reply", "all"])
def rows(request, tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    table = pa.Table.from_pylist(alpaca_rows(13))
    return Encoder(tokenizer, template("alpaca"), request.param, 2048).encode(table).examples


def by_hand(model, row):
    """One row alone, no padding, log-softmax written out."""
    with torch.no_grad():
        logits = model(torch.tensor([row.input_ids])).logits[0].double()
    nats = 0.0
    for position in range(1, len(row.input_ids)):
        if row.labels[position] != IGNORED:
            scores = logits[position - 1]
            top = scores.max()
            total = top + torch.log(torch.exp(scores - top).sum())
            nats += float(total - scores[row.labels[position]])
    return nats


def test_the_nats_are_those_of_a_plain_loop(model, rows):
    expected = [by_hand(model, row) for row in rows]
    assert row_nats(model, rows, 1024) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_the_nats_depend_neither_on_the_batch_nor_on_padding(model, rows, batch_tokens):
    alone = row_nats(model, rows, 1)
    assert row_nats(model, rows, batch_tokens) == pytest.approx(alone, rel=1e-4)


def test_a_likelihood_that_is_not_finite_is_no_figure(model, rows):
    """As where float16 overflows."""
    broken = deepcopy(model)
    with torch.no_grad():
        broken.lm_head.weight[7] = torch.nan
    with pytest.raises(ModelError, match=f"{len(rows)} of {len(rows)} texts.*compute_dtype"):
        row_nats(broken, rows, 1024)


def test_both_countings_of_a_row_cost_as_much_as_one(model, tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    table = pa.Table.from_pylist(alpaca_rows(5))
    every, response = (
        Encoder(tokenizer, template("paper"), kind, 2048).encode(table).examples
        for kind in ("all", "every_reply")
    )
    apart = [*row_nats(model, every, 100_000), *row_nats(model, response, 100_000)]
    together = [*every, *response]
    assert row_nats(model, together, 100_000) == pytest.approx(apart, rel=1e-4)
    [in_one] = packs(together, 100_000)
    [once] = packs(every, 100_000)
    assert pack(in_one)["input_ids"].shape == pack(once)["input_ids"].shape


def test_ours_weighs_tokens_and_the_papers_weighs_sentences():
    nats, tokens = np.array([2.0, 30.0]), np.array([2.0, 10.0])
    assert perplexity(nats, tokens) == pytest.approx(math.exp(32 / 12))
    assert paper_perplexity(nats, tokens) == pytest.approx((math.exp(1) + math.exp(3)) / 2)


def test_bits_per_byte_is_the_size_of_an_ideal_code_for_the_text():
    """A model that gives each of 256 bytes the same chance takes 8 bits for each; if it also cuts
    the text into pieces of four bytes, the bits stay the same."""
    replies = ["an answer", "回答", ""]
    byte_counts = np.array([len(reply.encode()) for reply in replies], float)
    by_byte = np.array([-sum(math.log(1 / 256) for _ in reply.encode()) for reply in replies])
    assert bits_per_byte(by_byte, byte_counts) == pytest.approx(8)
    stacked = bits_per_byte(np.stack([by_byte, by_byte / 4]), np.stack([byte_counts] * 2))
    assert stacked == pytest.approx([8, 2])


def test_the_interval_holds_the_value_and_is_the_same_for_the_same_seed():
    generator = np.random.default_rng(1)
    tokens = generator.integers(5, 50, 200).astype(float)
    nats = tokens * generator.gamma(4, 0.5, 200)
    first = interval(perplexity, nats, tokens, 500, seed=3)
    assert first.low < first.value < first.high
    assert first == interval(perplexity, nats, tokens, 500, seed=3)


def test_pairing_tells_models_apart_that_their_own_intervals_do_not():
    generator = np.random.default_rng(2)
    tokens = generator.integers(5, 50, 100).astype(float)
    base = tokens * generator.gamma(4, 0.5, 100)
    better = base * 0.97
    paired = difference(perplexity, (better, base), tokens, 500, seed=0)
    alone = [interval(perplexity, nats, tokens, 500, seed=0) for nats in (better, base)]
    assert alone[0].high > alone[1].low
    assert paired.low < paired.value < paired.high < 0

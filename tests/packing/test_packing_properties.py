"""Whatever rows are packed together, each has the nats that it has alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpipe.config.schema import Quantization
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.models.loading import load_base
from chatpipe.packing.packing import packs
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow

TOKENS = st.integers(2, 319)


@pytest.fixture(scope="module")
def model(tiny_model_dir, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPIPE_HOME", str(tmp_path_factory.mktemp("home")))
        yield load_base(tiny_model_dir, Quantization(method="none", compute_dtype="float32"))


@st.composite
def row_sets(draw):
    """Rows of which some begin alike, are equal, or are scored from their start."""
    beginnings = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=20), min_size=1, max_size=3))
    rows = []
    for index in range(draw(st.integers(1, 7))):
        start = draw(st.sampled_from(beginnings))
        ids = start + draw(st.lists(TOKENS, min_size=1, max_size=25))
        first = draw(st.integers(0, len(ids) - 1))
        rows.append(TokenizedRow(ids, [IGNORED] * first + ids[first:], index))
    return rows + draw(st.lists(st.sampled_from(rows), max_size=2))


def alone(model, row):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].log_softmax(-1)
    pairs = zip(range(len(row.labels) - 1), row.labels[1:], strict=True)
    return -sum(float(logits[place, label]) for place, label in pairs if label != IGNORED)


@settings(deadline=None, max_examples=40)
@given(row_sets(), st.integers(1, 200))
def test_the_nats_of_any_rows_are_those_of_each_alone(model, rows, batch_tokens):
    expected = [alone(model, row) for row in rows]
    assert row_nats(model, rows, batch_tokens) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(row_sets(), st.integers(1, 200), st.integers(1, 3))
def test_every_row_is_in_one_pack(rows, most, threads):
    groups = packs(rows, most, threads)
    key = sorted((row.input_ids, row.labels) for row in rows)
    assert sorted((row.input_ids, row.labels) for group in groups for row in group) == key
    assert all(groups)

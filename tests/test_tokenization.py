"""Labels score the response and the EOS and nothing else; nothing is cut without being counted."""

import pyarrow as pa
import pytest

from chatpipe.modeling import load_tokenizer
from chatpipe.prompts import render, template
from chatpipe.tokenization import IGNORED, Encoder

ROW = {"instruction": "Greet.", "input": "", "output": "Hello there."}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


def encoder(tokenizer, labels="response", max_length=2048, **options):
    return Encoder(tokenizer, template("alpaca"), labels, max_length, **options)


def scored(row):
    return [label for label in row.labels if label != IGNORED]


def table(*rows):
    return pa.Table.from_pylist(list(rows))


def test_labels_score_the_response_and_the_eos_and_nothing_else(tokenizer):
    [row] = encoder(tokenizer).encode(table(ROW)).rows
    assert tokenizer.decode(scored(row)) == "Hello there.</s>"
    assert tokenizer.decode(row.input_ids).startswith(
        "<s>" + render(template("alpaca"), "Greet.", "")
    )


def test_all_tokens_can_be_scored(tokenizer):
    [row] = encoder(tokenizer, "all").encode(table(ROW)).rows
    assert row.labels == row.input_ids


def test_a_row_that_is_too_long_is_left_out_and_counted(tokenizer):
    long = {**ROW, "output": "word " * 500}
    result = encoder(tokenizer, max_length=300).encode(table(ROW, long))
    assert [row.index for row in result.rows] == [0]
    assert result.left_out == {"longer than max_length": 1}


def test_cutting_on_the_left_keeps_the_end_of_the_response(tokenizer):
    result = encoder(tokenizer, max_length=20, too_long="cut_left").encode(table(ROW))
    assert result.cut == 1 and len(result.rows[0].input_ids) == 20
    assert tokenizer.decode(scored(result.rows[0])).endswith("there.</s>")


def test_a_row_whose_response_was_cut_away_is_counted_and_not_trained_as_nothing(tokenizer):
    result = encoder(tokenizer, max_length=20, too_long="cut_right").encode(table(ROW))
    assert result.rows == [] and result.left_out == {"response cut away": 1}


def test_braces_in_a_row_stay_as_they_are(tokenizer):
    text = render(template("alpaca"), "Explain {input} and {x}.", "{instruction}")
    assert "Explain {input} and {x}." in text and "### Input:\n{instruction}\n" in text

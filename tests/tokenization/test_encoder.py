"""Labels score the response and the EOS and nothing else; nothing is cut without being counted."""

import os
import time
from collections import Counter
from datetime import timedelta
from itertools import product

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatpipe.config.prompts import render, template
from chatpipe.models.loading import load_tokenizer
from chatpipe.tokenization import token_cache
from chatpipe.tokenization.encoder import IGNORED, Encoder, TokenizedRow
from tests.support.rows import alpaca_rows

ROW = {"instruction": "Greet.", "input": "", "output": "Hello there."}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


def encoder(tokenizer, labels="every_reply", max_length=2048, **options):
    return Encoder(tokenizer, template("alpaca"), labels, max_length, **options)


def scored(row):
    return [label for label in row.labels if label != IGNORED]


def table(*rows):
    return pa.Table.from_pylist(list(rows))


def test_labels_score_the_response_and_the_eos_and_nothing_else(tokenizer):
    [row] = encoder(tokenizer).encode(table(ROW)).examples
    assert tokenizer.decode(scored(row)) == "Hello there.</s>"
    assert tokenizer.decode(row.input_ids).startswith(
        "<s>" + render(template("alpaca"), "Greet.", "")
    )


def test_all_tokens_can_be_scored(tokenizer):
    [row] = encoder(tokenizer, "all").encode(table(ROW)).examples
    assert row.labels == row.input_ids


def test_a_row_that_is_too_long_is_left_out_and_counted(tokenizer):
    long = {**ROW, "output": "word " * 500}
    result = encoder(tokenizer, max_length=300).encode(table(ROW, long))
    assert [row.index for row in result.examples] == [0]
    assert result.left_out == {"longer than max_length": 1}


def test_cutting_on_the_left_keeps_the_end_of_the_response(tokenizer):
    result = encoder(tokenizer, max_length=20, too_long="cut_left").encode(table(ROW))
    assert result.cut == 1 and len(result.examples[0].input_ids) == 20
    assert tokenizer.decode(scored(result.examples[0])).endswith("there.</s>")


def test_a_row_whose_response_was_cut_away_is_counted_and_not_trained_as_nothing(tokenizer):
    result = encoder(tokenizer, max_length=20, too_long="cut_right").encode(table(ROW))
    assert result.examples == [] and result.left_out == {"response cut away": 1}


def test_braces_in_a_row_stay_as_they_are(tokenizer):
    text = render(template("alpaca"), "Explain {input} and {x}.", "{instruction}")
    assert "Explain {input} and {x}." in text and "### Input:\n{instruction}\n" in text


def plainly(encoder, rows):
    """What `encode` gives, row by row: rows, cut, left out."""
    made, cut, left_out = [], 0, Counter()
    for index, row in enumerate(rows):
        prompt = render(encoder.template, row["instruction"], row["input"])
        before = encoder.tokenizer(prompt)["input_ids"]  # with BOS
        after = encoder.tokenizer(row["output"], add_special_tokens=False)["input_ids"]
        ids = [*before, *after, encoder.tokenizer.eos_token_id]
        first = 0 if encoder.labels == "all" else len(before)
        labels = [IGNORED] * first + ids[first:]
        if len(ids) > encoder.max_length:
            if encoder.too_long == "drop":
                left_out["longer than max_length"] += 1
                continue
            if encoder.too_long == "cut_right" and len(before) >= encoder.max_length:
                left_out["response cut away"] += 1
                continue
            cut += 1
            over = len(ids) - encoder.max_length
            part = slice(over, None) if encoder.too_long == "cut_left" else slice(0, -over)
            ids, labels = ids[part], labels[part]
        made.append(TokenizedRow(ids, labels, index))
    return made, cut, dict(left_out)


@pytest.mark.parametrize(
    ("labels", "too_long", "max_length"),
    list(product(("every_reply", "all"), ("drop", "cut_left", "cut_right"), (15, 160, 200, 2048))),
)
def test_rows_in_memory_and_rows_on_the_disk_are_those_of_plain_python(
    tokenizer, tmp_path, monkeypatch, labels, too_long, max_length
):
    monkeypatch.setattr(token_cache, "ROWS_AT_ONCE", 7)
    rows = [*alpaca_rows(30), {**ROW, "output": "long " * 60}, {**ROW, "instruction": "so " * 99}]
    pq.write_table(table(*rows), tmp_path / "rows.parquet", row_group_size=5)
    encoder_ = encoder(tokenizer, labels, max_length, too_long=too_long)
    made, cut, left_out = plainly(encoder_, rows)
    for found in (encoder_.encode(table(*rows)), encoder_.encode_file(tmp_path / "rows.parquet")):
        assert list(found.examples) == made and len(found.examples) == len(made)
        assert (found.cut, found.left_out) == (cut, left_out)
        assert found.tokens == sum(len(row.input_ids) for row in made)
        predicted = [sum(label != IGNORED for label in row.labels[1:]) for row in made]
        assert found.row_scored_tokens.tolist() == predicted
        assert found.scored_tokens == sum(predicted)
    assert found.examples[1:3] == made[1:3]


def test_the_same_texts_are_tokenized_once(tokenizer, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(token_cache, "_write", spy(token_cache._write, asked))
    rows = alpaca_rows(20)
    pq.write_table(table(*rows), tmp_path / "rows.parquet")
    first = encoder(tokenizer).encode(table(*rows))
    again = encoder(tokenizer, "all", 100, too_long="cut_left").encode(table(*rows))
    mapped = encoder(tokenizer).encode_file(tmp_path / "rows.parquet")
    assert (
        len(asked) == 1
        and list(mapped.examples) == first.examples
        and again.examples != first.examples
    )
    encoder(tokenizer).encode(table(*rows[::-1]))
    Encoder(tokenizer, template("short"), "every_reply", 2048).encode(table(*rows))
    assert len(asked) == 3


def test_a_file_that_nobody_asked_for_in_a_month_goes_when_another_is_written(
    tokenizer, chatpipe_home
):
    def files():
        return sorted((chatpipe_home / "cache" / "tokens").glob("*.arrow"))

    month = timedelta(days=31).total_seconds()
    used, unused = table(*alpaca_rows(2)), table(*alpaca_rows(3))
    for rows in (used, unused):
        encoder(tokenizer).encode(rows)
    for file in files():
        os.utime(file, (0, file.stat().st_mtime - month))
    encoder(tokenizer).encode(used)
    encoder(tokenizer).encode(table(*alpaca_rows(4)))
    assert len(files()) == 2
    assert all(time.time() - file.stat().st_mtime < month for file in files())


def test_a_file_that_was_not_finished_is_not_found(tokenizer, tmp_path, monkeypatch):
    def breaks(file, *_):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(token_cache, "_write", breaks)
        encoder(tokenizer).encode(table(ROW))
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []
    assert len(encoder(tokenizer).encode(table(ROW)).examples) == 1


def spy(function, calls):
    def called(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return called

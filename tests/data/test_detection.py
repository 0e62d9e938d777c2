"""`format: auto`, and columns that lie within others."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from chatpipe.cli.app import app
from chatpipe.config.schema import Dataset
from chatpipe.data.detection import detected_format
from chatpipe.data.normalize import Normalize
from chatpipe.errors import DataError
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from tests.support.rows import write_jsonl
from tests.support.verdicts import SETTINGS

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROWS = {
    "alpaca": {"instruction": "q", "output": "a"},
    "dialogues": {"dialog": ["q", "a"]},
    "messages": {"messages": TURNS, "prompt": "q"},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "completion": {"prompt": "q", "completion": "a"},
}


def examples_request(path, **settings):
    dataset = Dataset(name="rows", path=str(path), **settings)
    return Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))


def texts(path, **settings):
    made = store().get_or_build(examples_request(path, **settings))
    rows = pq.read_table(made.path / "examples.parquet").to_pylist()
    return [(row["instruction"], row["output"]) for row in rows]


@pytest.mark.parametrize("name", ROWS)
def test_auto_is_the_same_request_as_the_format_of_the_rows(tmp_path, chatpipe_home, name):
    path = write_jsonl(tmp_path / "rows.jsonl", [ROWS[name]] * 3)
    assert detected_format(path, {}) == name
    assert examples_request(path, format="auto") == examples_request(path, format=name)


def test_auto_takes_renamed_columns_into_account(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"talk": TURNS, "question": "q"}] * 3)
    assert detected_format(path, {"messages": "talk"}) == "messages"
    assert detected_format(path, {"conversations": "talk"}) == "sharegpt"
    with pytest.raises(DataError, match="no format has messages and prompt together"):
        detected_format(path, {"messages": "talk", "prompt": "question"})


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_commands_say_what_auto_took(tmp_path, chatpipe_home, tiny_model_dir, command):
    rows = [{"prompt": f"q {i}", "completion": f"a {i}"} for i in range(30)]
    dataset = {"name": "rows", "path": str(write_jsonl(tmp_path / "r.jsonl", rows))}
    variant = {**SETTINGS, "base_model": {"repo": str(tiny_model_dir)}}
    path = tmp_path / "v.yaml"
    path.write_text(json.dumps({**variant, "datasets": [{**dataset, "format": "auto"}]}))
    done = CliRunner().invoke(app, [command, str(path)])
    assert "data set rows: format auto is completion" in " ".join(done.output.split())


NESTED = [
    {"meta": {"question": f"q{i}", "more": {"turns": TURNS}}, "answer.text": f"a{i}"}
    for i in range(3)
]
QA = {"instruction": "meta.question", "output": "answer.text"}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_column_may_lie_within_another(tmp_path, chatpipe_home, suffix):
    path = tmp_path / f"rows.{suffix}"
    rows = [*NESTED, {**NESTED[0], "meta": None}]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)
    assert texts(path, columns=QA) == [("q0", "a0"), ("q1", "a1"), ("q2", "a2")]
    turns = {"format": "messages", "columns": {"messages": "meta.more.turns"}}
    assert texts(path, **turns) == [("q", "a")] * 3
    assert detected_format(path, QA) == "alpaca"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_does_not_lie_within_is_missing(tmp_path, chatpipe_home, suffix):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    else:
        write_jsonl(path, NESTED)
    with pytest.raises(DataError, match=r"column meta\.answer missing"):
        texts(path, columns={**QA, "output": "meta.answer"})

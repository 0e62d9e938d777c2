"""Reading in parts, on several cores, gives what reading row by row in plain Python gives."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from chatpipe.config.schema import Dataset, Split
from chatpipe.data import parallel, reading, writing
from chatpipe.data.hashing import as_digests, as_ids, first_of_each, heldout_mask, text_digests
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.errors import DataError
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from tests.support.rows import alpaca_rows, write_jsonl

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "data_at_scale.py"
TEXTS = ("instruction", "input", "output")


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of a few rows, so that small files have many."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 300)
    monkeypatch.setattr(reading, "SMALL_BYTES", 100)
    monkeypatch.setattr(reading, "BATCH_ROWS", 3)
    monkeypatch.setattr(writing, "GROUP_ROWS", 5)


def normalize(path, **options):
    dataset = Dataset(name=path.stem, path=str(path), **options)
    return store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )


def read(artifact, name):
    return pq.read_table(artifact.path / f"{name}.parquet").to_pylist()


def plain_id(*texts):
    return xxhash.xxh3_128_hexdigest("\x1f".join(texts).encode())


def plainly(lines):
    """(kept texts, reason and number of every other line), row by row."""
    kept, dropped = [], []
    for number, line in enumerate(lines):
        reason = None
        try:
            row = json.loads(line.decode())
        except ValueError:
            row = None
        if not isinstance(row, dict):
            reason = "undecodable"
        else:
            texts = [row.get(name) for name in TEXTS]
            texts[1] = "" if texts[1] is None else texts[1]
            if not all(isinstance(text, str) and encodable(text) for text in texts):
                reason = "not text"
            elif not texts[0].strip():
                reason = "empty instruction"
            elif not texts[2].strip():
                reason = "empty output"
        if reason:
            dropped.append((reason, number))
        else:
            kept.append(tuple(text if text.strip() else "" for text in texts))
    return kept, dropped


def encodable(text):
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def odd_lines():
    """Good rows, and every way that we know for a line to be bad."""
    good = [json.dumps(row, ensure_ascii=False).encode() for row in alpaca_rows(60)]
    bad = [
        b'{"instruction": "x", "input": "", "output": " "}',
        b'{"instruction": "\xc3\xa9 ", "output": "no input"}',
        b'{"instruction": "", "input": "", "output": "y"}',
        b'{"instruction": null, "input": "", "output": "y"}',
        b'{"instruction": "x", "input": 5, "output": "y"}',
        b'{"instruction": ["x"], "input": "", "output": "y"}',
        b'{"instruction": "bytes \xff\xfe", "input": "", "output": "y"}',
        b'{"instruction": "half a pair \\ud800", "input": "", "output": "y"}',
        b'{"instruction": "a whole pair \\ud83d\\ude00", "input": "", "output": "y"}',
        b'{"other": 1}',
        b'{"instruction": "cut of',
        b"[1, 2]",
        b"no json",
        b'{"instruction": "long", "input": "", "output": "' + b"word " * 200 + b'"}',
    ]
    lines = good + bad
    random.Random(0).shuffle(lines)
    return lines


@pytest.mark.parametrize("threads", [1, 3])
def test_an_odd_file_in_small_parts_is_read_as_plain_python_reads_it(
    tmp_path, small_parts, monkeypatch, threads
):
    monkeypatch.setattr(parallel, "MOST_THREADS", threads)
    lines = odd_lines()
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b"\n".join(lines))
    kept, dropped = plainly(lines)
    made = normalize(path)
    rows = read(made, "examples")
    assert [tuple(row[name] for name in TEXTS) for row in rows] == kept
    assert [row["id"] for row in rows] == [plain_id(*texts) for texts in kept]
    assert [(row["reason"], row["row"]) for row in read(made, "dropped")] == dropped
    assert made.details()["account"]["read"] == len(lines)


def test_parts_and_whole_files_give_the_same_rows(tmp_path, monkeypatch):
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b"\n".join(odd_lines()))
    whole = normalize(path)
    rows, aside = read(whole, "examples"), read(whole, "dropped")
    store().forget(whole.path)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1)  # a line at a time
    again = normalize(path)
    assert (read(again, "examples"), read(again, "dropped")) == (rows, aside)


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_every_format_is_read_in_small_parts(tmp_path, small_parts, suffix):
    import pandas as pd

    rows = alpaca_rows(50)
    path = tmp_path / f"rows.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path, row_group_size=7)
    jsonl = normalize(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert read(normalize(path), "examples") == read(jsonl, "examples")


def test_a_column_that_only_a_late_part_has_is_not_missing(tmp_path, small_parts):
    rows = [{"instruction": f"Ask {i}."} for i in range(20)] + alpaca_rows(1)
    made = normalize(write_jsonl(tmp_path / "late.jsonl", rows))
    assert made.details()["account"]["dropped"] == {"not text": 20}
    with pytest.raises(DataError, match=r"column output missing; the file has instruction\."):
        normalize(write_jsonl(tmp_path / "never.jsonl", rows[:20]))


def test_ids_are_the_hashes_of_the_texts_and_sort_as_numbers():
    rows = [*alpaca_rows(20), {"instruction": "é", "input": "", "output": ""}]
    table = pa.Table.from_pylist(rows)
    ids = as_ids(text_digests(table.slice(3), TEXTS))
    assert ids.to_pylist() == [plain_id(*(row[name] for name in TEXTS)) for row in rows[3:]]
    numbers = [(int(high) << 64) + int(low) for high, low in as_digests(ids)]
    assert numbers == [int(text, 16) for text in ids.to_pylist()]
    assert as_ids(text_digests(table.slice(0, 0), TEXTS)).to_pylist() == []


def test_the_split_is_by_the_prompts_hash():
    rows = alpaca_rows(200)
    mask = heldout_mask(pa.Table.from_pylist(rows), 0.3)
    plain = [
        int(plain_id(row["instruction"], row["input"])[:12], 16) < int(0.3 * 16**12) for row in rows
    ]
    assert mask.tolist() == plain and 30 < sum(plain) < 90


@pytest.mark.parametrize("high_values", [3, 1 << 40])
def test_the_first_of_each_digest_is_found_also_where_half_of_it_is_shared(high_values):
    random_ = np.random.default_rng(0)
    pairs = [random_.integers(0, limit, 2_000) for limit in (high_values, 50)]
    digests = np.stack(pairs, axis=1).astype(np.uint64)
    digests = np.concatenate([digests, digests[::3]])
    seen: set[tuple[int, int]] = set()
    plain = []
    for pair in map(tuple, digests.tolist()):
        plain.append(pair not in seen)
        seen.add(pair)
    assert first_of_each(digests).tolist() == plain
    assert first_of_each(digests[:0]).tolist() == []


def test_merging_in_small_parts_drops_and_splits_as_plain_python_does(tmp_path, small_parts):
    rows = alpaca_rows(60)
    paths = [
        write_jsonl(tmp_path / "one.jsonl", [*rows[:40], *rows[10:15]]),
        write_jsonl(tmp_path / "two.jsonl", rows[30:]),
    ]
    parts = tuple(normalize(path) for path in paths)
    merged = [row for part in parts for row in read(part, "examples")]
    made = store().get_or_build(Merge(examples=parts, split=Split(heldout=0.3)))
    seen: set[str] = set()
    sides = {"train": [], "heldout": [], "dropped": []}
    for place, row in enumerate(merged):
        if row["id"] in seen:
            sides["dropped"].append(place)
            continue
        seen.add(row["id"])
        held = int(plain_id(row["instruction"], row["input"])[:12], 16) < int(0.3 * 16**12)
        sides["heldout" if held else "train"].append(row)
    assert all(sides.values())
    assert read(made, "train") == sides["train"]
    assert read(made, "heldout") == sides["heldout"]
    assert [row["row"] for row in read(made, "dropped")] == sides["dropped"]
    assert made.details()["train_rows_by_source"].keys() == {"one", "two"}


def test_parts_come_in_order_and_only_a_few_are_ahead(monkeypatch):
    monkeypatch.setattr(parallel, "MOST_THREADS", 2)
    taken = []
    parts = (taken.append(number) or number for number in range(50))
    for place, made in enumerate(parallel.in_order(lambda number: number * number, parts)):
        assert made == place**2 and len(taken) <= place + 4
    assert len(taken) == 50


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_benchmark_runs_and_its_account_is_that_of_what_it_generated(tmp_path, suffix):
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARK), "--rows", "2000", "--format", suffix]
    subprocess.run([*command, "--json", str(report)], check=True, capture_output=True)
    [result] = json.loads(report.read_text())["results"]
    assert result["rows"] == 2000 and result["rows_per_s"] > 0


def test_rows_of_megabytes_are_not_held_until_they_are_many(tmp_path):
    schema = pa.schema([("text", pa.string())])
    rows = pa.table({"text": ["x" * (8 << 20)] * 4})
    with writing.RowWriter(tmp_path / "rows.parquet", schema) as writer:
        for _ in range(6):
            writer.write(rows)
    assert pq.read_metadata(tmp_path / "rows.parquet").num_row_groups == 3
    assert max(batch.num_rows for batch in reading.batches(tmp_path / "rows.parquet")) <= 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is full")
def test_an_error_of_writing_is_not_lost_though_rows_are_written_beside_what_comes_next():
    schema = pa.schema([("text", pa.string())])
    rows = pa.table({"text": ["x" * 1024] * writing.GROUP_ROWS})
    with (
        pytest.raises(OSError, match="No space left"),
        writing.RowWriter(Path("/dev/full"), schema) as writer,
    ):
        writer.write(rows)

"""What holds for any rows: each is kept or dropped under a reason, with its text as it was; its
side of the split depends on its prompt alone; files, parts, order, company change nothing."""

import csv
import io
import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatpipe.config.schema import Dataset, Split
from chatpipe.data import reading
from chatpipe.data.hashing import heldout_mask
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.planning.row_checks import checked_rows
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from chatpipe.utils.text import is_blank, trimmed

TEXTS = ("instruction", "input", "output")
RUNS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
LETTERS = st.characters(blacklist_categories=["Cs"])
TEXT = st.text(LETTERS, max_size=12) | st.sampled_from(
    ["", " ", "\u200b", "\u00ad\ufeff", "    x = 1\n", "\r", "\r\n", '"', "a,b;c|d\te", "</s>", "é"]
)
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(TEXTS, TEXT)), min_size=1, max_size=12)
JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.lists(TEXT, max_size=2)
ANYTHING = st.lists(
    st.dictionaries(st.sampled_from([*TEXTS, "other"]), TEXT | JUNK, max_size=4) | JUNK,
    min_size=1,
    max_size=12,
)
GOOD = [
    {"instruction": f"always there {number}", "input": "", "output": "a"} for number in range(40)
]


def normalized(name, content):
    """The examples of a file, made in a store of their own that is there until the caller's end."""
    path = Path(os.environ["CHATPIPE_HOME"]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    dataset = Dataset(name="rows", path=str(path))
    made = store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )
    checked = checked_rows(path, "alpaca", {})
    account = made.details()["account"]
    assert (checked.rows, checked.bad) == (account["read"], sum(account["dropped"].values()))
    return made


def a_home():
    folder = tempfile.TemporaryDirectory()
    return folder, mock.patch.dict(os.environ, CHATPIPE_HOME=f"{folder.name}/home")


def table(artifact, name):
    return pq.read_table(artifact.path / f"{name}.parquet").to_pylist()


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, TEXTS, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def seen(text):
    """The text, or nothing where it has no letter that can be seen."""
    return "" if is_blank(pa.array([text]))[0] else text


@RUNS
@given(ROWS)
def test_every_format_gives_the_rows_as_they_are_and_all_of_them(rows):
    folder, home = a_home()
    with folder, home:
        everything = GOOD + rows
        kept = [
            {name: seen(row[name]) for name in TEXTS}
            for row in everything
            if seen(row["instruction"]) and seen(row["output"])
        ]
        for name, content in (
            ("a.jsonl", lines(everything)),
            ("b.json", json.dumps(everything, ensure_ascii=False).encode()),
            ("c.csv", as_csv(everything)),
            ("d.parquet", as_parquet(everything)),
        ):
            made = normalized(name, content)
            account = made.details()["account"]
            assert (
                account["read"] == len(everything) == account["kept"] + len(table(made, "dropped"))
            )
            found = table(made, "examples")
            assert [{name: row[name] for name in TEXTS} for row in found] == kept, name


@RUNS
@given(ANYTHING, st.integers(1, 400))
def test_whatever_lines_say_each_is_kept_or_dropped_wherever_parts_end(rows, block):
    folder, home = a_home()
    with folder, home:
        content = lines(GOOD[:3] + rows)
        whole = normalized("a.jsonl", content)
        account = whole.details()["account"]
        assert account["read"] == 3 + len(rows)
        assert account["read"] == account["kept"] + sum(account["dropped"].values())
        before = table(whole, "examples"), table(whole, "dropped")
        store().forget(whole.path)
        with mock.patch.multiple(reading, BLOCK_BYTES=block, SMALL_BYTES=block, BATCH_ROWS=2):
            again = normalized("a.jsonl", content)
        assert (table(again, "examples"), table(again, "dropped")) == before
        listed = normalized("b.json", json.dumps(GOOD[:3] + rows).encode())
        assert (table(listed, "examples"), listed.details()["account"]) == (before[0], account)


@RUNS
@given(ROWS, st.randoms(use_true_random=False))
def test_a_rows_side_depends_on_its_prompt_alone(rows, draw):
    folder, home = a_home()
    with folder, home:
        shuffled = draw.sample(rows, len(rows))
        sides = []
        for name, content in (
            ("a.jsonl", lines(GOOD + rows)),
            ("b.csv", as_csv(shuffled + GOOD)),
            ("c.jsonl", lines([*rows, *GOOD, *rows, {"instruction": "x", "output": "y"}])),
        ):
            made = store().get_or_build(
                Merge(examples=(normalized(name, content),), split=Split(heldout=0.3))
            )
            account = made.details()["account"]
            assert account["read"] == account["kept"] + sum(account["dropped"].values())
            train, heldout = (
                {row["id"]: row for row in table(made, s)} for s in ("train", "heldout")
            )
            assert not train.keys() & heldout.keys()
            prompts = [
                {(row["instruction"].strip(), row["input"].strip()) for row in side.values()}
                for side in (train, heldout)
            ]
            assert not prompts[0] & prompts[1]
            sides.append({key for key, row in heldout.items() if row["instruction"] != "x"})
        assert sides[0] == sides[1] == sides[2]


@RUNS
@given(st.lists(TEXT, min_size=1, max_size=20))
def test_trimming_only_what_may_need_it_is_trimming_all(texts):
    import pyarrow.compute as pc

    whole = pa.array(["before", *texts, "after"])
    for part in (whole, whole.slice(1, len(texts))):
        assert trimmed(part).equals(pc.utf8_trim_whitespace(part))


def test_white_space_around_a_prompt_moves_no_row_and_an_indented_answer_is_another_row():
    rows = [{**row, "input": "x"} for row in GOOD]
    padded = [{**row, "instruction": f" {row['instruction']}\n", "input": "\tx "} for row in rows]
    masks = [heldout_mask(pa.Table.from_pylist(part), 0.3) for part in (rows, padded)]
    assert masks[0].any() and (masks[0] == masks[1]).all()
    folder, home = a_home()
    with folder, home:
        twice = [*GOOD, {**GOOD[0], "output": "  a"}]
        made = normalized("a.jsonl", lines(twice))
        corpus = store().get_or_build(Merge(examples=(made,), split=Split(heldout=0.3)))
        assert corpus.details()["account"]["kept"] == len(twice)

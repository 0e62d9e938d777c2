"""Directories that `save_to_disk` of `datasets` wrote."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from datasets import Dataset as Table
from datasets import DatasetDict, load_from_disk

from chatpipe.config.schema import Dataset
from chatpipe.errors import ChatpipeError
from chatpipe.store.store import store
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from tests.support.commands import invoke
from tests.support.rows import alpaca_rows
from tests.support.verdicts import SETTINGS

ROWS = alpaca_rows(60)


@pytest.fixture
def saved(tmp_path):
    """A DatasetDict with two splits to train on and one that is held out."""
    parts = {"train": ROWS[:30], "extra": ROWS[30:50], "test": ROWS[50:]}
    folder = tmp_path / "saved"
    tables = {name: Table.from_list(rows) for name, rows in parts.items()}
    DatasetDict(tables).save_to_disk(folder, num_shards={"train": 2, "extra": 1, "test": 1})
    return folder


def raw_of(path, **settings):
    dataset = Dataset(name="rows", path=str(path), **settings)
    return Recipe([], StoreBuilder()).raw(dataset)


def instructions(path, **settings):
    dataset = Dataset(name="rows", path=str(path), **settings)
    examples = Recipe([], StoreBuilder()).examples(dataset)
    return pq.read_table(examples.path / "examples.parquet")["instruction"].to_pylist()


def of(rows):
    return [row["instruction"] for row in rows]


def test_a_saved_split_and_its_slices_are_read(saved, chatpipe_home, tmp_path):
    assert instructions(saved, split="train") == of(ROWS[:30])
    assert instructions(saved, split="train[:10%]+extra[-2:]") == of(ROWS[:3] + ROWS[48:50])
    one = tmp_path / "one"
    load_from_disk(saved)["train"].filter(lambda row: True).select(range(5, 12)).save_to_disk(one)
    assert instructions(one) == of(ROWS[5:12])
    nested = saved / "test"  # a split's own folder is a saved Dataset
    assert instructions(nested) == of(ROWS[50:])


def test_splits_are_not_joined_and_a_held_out_one_is_left_out_by_name(saved, chatpipe_home):
    with pytest.raises(ChatpipeError, match="has the splits train, extra, test; name one of them"):
        raw_of(saved)
    with pytest.raises(ChatpipeError, match=r"has no split train_sft; it has train, extra, test\."):
        raw_of(saved, split="train_sft")
    description = {"splits": ["train", "test"]}
    (saved / "dataset_dict.json").write_text(json.dumps(description))
    assert raw_of(saved).details()["left_out"].keys() == {"test"}


def test_changed_rows_are_another_request_and_a_moved_directory_is_not(saved, chatpipe_home):
    first = raw_of(saved, split="train")
    moved = saved.rename(saved.with_name("moved"))
    assert raw_of(moved, split="train") == first
    shutil.rmtree(moved / "test")
    assert raw_of(moved, split="train") == first  # of another split
    Table.from_list(ROWS[:29]).save_to_disk(moved / "train")
    assert raw_of(moved, split="train").key != first.key


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "train/state.json").write_text("{"), "state.json: cannot be read"),
        (lambda f: (f / "train/state.json").write_text("{}"), "state.json: lists no files"),
        (lambda f: (f / "dataset_dict.json").write_text("[]"), "is not what save_to_disk writes"),
        (lambda f: next(f.glob("train/*.arrow")).unlink(), ".arrow: is missing"),
        (lambda f: next(f.glob("train/*.arrow")).write_bytes(b"no arrow"), "cannot be read by"),
    ],
)
def test_a_damaged_directory_is_refused_in_one_sentence(saved, chatpipe_home, damage, sentence):
    damage(saved)
    with pytest.raises(ChatpipeError) as error:
        raw_of(saved, split="train")
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_validate_and_plan_read_it_and_name_its_rows(
    saved, chatpipe_home, tiny_model_dir, tmp_path
):
    table = Table.from_list([*ROWS[:30], {"instruction": "q", "input": "", "output": ""}])
    shutil.rmtree(saved / "train")
    table.save_to_disk(saved / "train")
    file = tmp_path / "mine.yaml"

    def run(command, **settings):
        rows = {"name": "rows", "path": str(saved), "format": "auto", **settings}
        base = {"repo": str(tiny_model_dir)}
        file.write_text(json.dumps({**SETTINGS, "base_model": base, "datasets": [rows]}))
        return invoke(command, file)

    validated, planned = run("validate", split="train"), run("plan", split="train")
    assert validated.exit_code == 0, validated.stderr
    assert f"{saved}, split train: 31 rows read" in validated.stdout
    assert f"{saved}, split train: row 31: empty output." in validated.stdout
    assert planned.exit_code == 0 and "format auto is alpaca" in planned.stdout, planned.stderr
    for command in ("validate", "plan"):
        refused = run(command, split="training")
        assert refused.exit_code == 2
        assert f"{saved}: has no split training; it has train, extra, test." in refused.stderr
    assert not list(store().root.glob("raw/*/rows/*.arrow"))

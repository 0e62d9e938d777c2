"""Folders of rows: what is read of them, and what is left out by name."""

import bz2
import errno
import gzip
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chatpipe.config.schema import Dataset, Variant
from chatpipe.data.folders import DEFAULT_PATTERNS, hub_patterns, row_files
from chatpipe.data.normalize import Normalize
from chatpipe.errors import ConfigError, SourceError
from chatpipe.planning.row_checks import check_rows
from chatpipe.sources.fetch import FetchDataset
from chatpipe.sources.hub import selected
from chatpipe.store.store import store
from tests.support.commands import chatpipe
from tests.support.rows import alpaca_rows, write_jsonl


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write(folder, name, first=0, count=2):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_jsonl(path, alpaca_rows(first + count)[first:])


def read(folder, **options):
    """(how many rows are read, the warnings)."""
    dataset = Dataset(name="rows", path=str(folder), **options)
    made = store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )
    assert made.details()["account"]["read"] == len(
        pq.read_table(made.path / "examples.parquet")
    ) + len(pq.read_table(made.path / "dropped.parquet"))
    return made.details()["account"]["read"], made.details()["warnings"]


def test_dataset_defaults_are_those_of_the_folder():
    assert Dataset(name="rows", path="x").files == DEFAULT_PATTERNS


def test_a_readme_of_one_s_own_beside_several_files_brings_no_warning(folder, tmp_path):
    write(folder, "a.jsonl", count=40)
    write(folder, "b.jsonl", first=40, count=40)
    (folder / "README.md").write_text("our rows")
    variant = tmp_path / "ours.yaml"
    dataset = {"name": "rows", "path": str(folder)}
    base = {"repo": "smollm2-135m-instruct"}
    variant.write_text(json.dumps({"base_model": base, "datasets": [dataset]}))
    done = chatpipe("validate", variant)
    assert done.stdout.endswith("ours.yaml: fine.\n") and not done.stderr, done


def test_packed_files_and_other_spellings_are_read(folder):
    lines = "".join(json.dumps(row) + "\n" for row in alpaca_rows(2))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "b.JSONL").write_text(lines)
    (folder / "c.ndjson").write_text(lines)
    (folder / "d.tsv").write_text("instruction\tinput\toutput\nq\t\ta\n")
    (folder / "deep").mkdir()
    (folder / "deep/e.Json.bz2").write_bytes(bz2.compress(lines.encode()))
    (folder / "notes.txt").write_text("no rows")
    assert read(folder) == (9, [])


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints/a.jsonl", "__MACOSX/._a.jsonl", ".a.jsonl", "x/.hidden/a.jsonl"]
)
def test_what_programs_leave_behind_is_left_out_by_name(folder, name):
    write(folder, "a.jsonl")
    write(folder, name)
    rows, [warning] = read(folder)
    place = name if name.startswith(".a") else name.rpartition("/")[0]
    assert rows == 2 and f"left out {place}: hidden" in warning


@pytest.mark.parametrize(
    "name",
    [
        *("test.jsonl", "validation.jsonl", "data/test-00000-of-00001.jsonl", "val/rows.jsonl"),
        *("my_eval.jsonl", "dev.JSONL", "valid/0001.ndjson", "rows.holdout.jsonl"),
    ],
)
def test_held_out_splits_are_not_joined_unless_that_is_asked(folder, name):
    write(folder, "train.jsonl")
    write(folder, name, first=2)
    rows, [warning] = read(folder)
    assert rows == 2 and name in warning and "name it under `files`" in warning
    assert read(folder, files=["**/*.jsonl", "**/*.JSONL", "**/*.ndjson"]) == (4, [])


def test_splits_that_datasets_tells_by_their_names_are_joined_where_that_is_asked(folder):
    for place, split in enumerate(("train_sft", "train_gen", "test_sft")):
        write(folder, f"data/{split}-00000-of-00001.jsonl", first=2 * place)
    fault = "has the splits test_sft, train_gen, train_sft, which are not joined by default"
    with pytest.raises(SourceError, match=fault):
        read(folder)
    variant = Variant(name="v", datasets=(Dataset(name="rows", path=str(folder)),))
    with pytest.raises(ConfigError, match=fault):
        check_rows([variant])
    assert read(folder, files=["data/train_*.jsonl"]) == (4, [])
    assert read(folder, files=["data/train_sft-*.jsonl"]) == (2, [])


def test_files_that_are_no_splits_are_read_together(folder):
    for place, name in enumerate(("train", "more", "2024-05")):
        write(folder, f"{name}.jsonl", first=2 * place)
    assert read(folder) == (6, [])


def test_a_folder_of_one_held_out_split_is_that_and_of_two_is_refused(folder):
    write(folder, "test.jsonl")
    assert read(folder) == (2, [])
    write(folder, "validation.jsonl")
    with pytest.raises(SourceError, match=r"only held-out splits \(test, validation\)"):
        read(folder)
    assert read(folder, files=["test.jsonl"]) == (2, [])


def test_words_that_only_contain_a_split_are_none(folder):
    write(folder, "contest.jsonl")
    write(folder, "latest_values.jsonl")
    write(folder, "training/test_of_time.jsonl")
    assert read(folder) == (6, [])


DESCRIPTIONS = {
    "dataset_infos.json": {"default": {"splits": {}}},
    "dataset_info.json": {"features": {}},
    "dataset_dict.json": {"splits": ["train"]},
    "state.json": {"_data_files": [{"filename": "x"}]},
    "README.json": {"about": "rows"},
    "notes.json": {"author": "me", "year": 2026},
}
UNREAD = ("a.arrow", "b.jsonl.lz4", "c.jsonl.zip", "d.xlsx", "e.jsonlines", "f.tar.gz", "g.csv.bak")


@pytest.mark.parametrize("name", UNREAD)
def test_what_may_hold_rows_and_is_not_read_is_left_out_by_name(folder, name):
    write(folder, "rows.jsonl")
    (folder / name).write_bytes(b"x")
    (folder / "LICENSE.txt").write_text("CC0")
    rows, [warning] = read(folder)
    assert rows == 2 and f"left out {name}: of a kind that is not read" in warning


def test_a_pipe_is_no_file_of_rows(folder):
    write(folder, "rows.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    rows, [warning] = read(folder)
    assert rows == 2 and "left out pipe.jsonl: no regular file" in warning
    with pytest.raises(SourceError, match="is no regular file"):
        read(folder / "pipe.jsonl")


@pytest.mark.parametrize("indent", [2, None])
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_are_left_out_by_name(folder, name, indent):
    write(folder, "rows.jsonl")
    (folder / name).write_text(json.dumps(DESCRIPTIONS[name], indent=indent))
    rows, [warning] = read(folder)
    assert rows == 2 and f"left out {name}: describes" in warning


def test_an_object_that_holds_rows_is_not_passed_over(folder):
    write(folder, "rows.jsonl")
    (folder / "more.json").write_text(json.dumps({"data": alpaca_rows(2)}, indent=2))
    with pytest.raises(Exception, match=r"more\.json: expected a list of rows"):
        read(folder)


def test_links_to_files_and_folders_are_followed_and_circles_end(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "a.jsonl")
    write(elsewhere / "deep", "b.jsonl", first=2)
    (folder / "linked.jsonl").symlink_to(elsewhere / "a.jsonl")
    (folder / "folder").symlink_to(elsewhere / "deep", target_is_directory=True)
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    (elsewhere / "deep/up").symlink_to(folder, target_is_directory=True)
    (folder / "gone.jsonl").symlink_to(tmp_path / "gone")
    rows, [warning] = read(folder)
    assert rows == 4 and "left out gone.jsonl: a link that leads nowhere" in warning


def test_a_folder_whose_name_ends_like_a_file_is_a_folder(folder):
    write(folder, "x.jsonl/a.jsonl")
    assert read(folder) == (2, [])
    assert read(folder / "x.jsonl") == (2, [])


@pytest.mark.parametrize("place", [".", "below"])
def test_a_store_within_the_folder_is_not_read_as_rows(folder, monkeypatch, place):
    monkeypatch.setenv("CHATPIPE_HOME", str(folder / place))
    write(folder, "a.jsonl")
    for _ in range(2):
        assert read(folder) == (2, [])


def test_another_file_that_is_left_out_is_said_though_the_rows_are_the_same(folder):
    write(folder, "train.jsonl")
    assert read(folder) == (2, [])
    write(folder, "test.jsonl")
    assert len(read(folder)[1]) == 1


def test_validate_says_what_is_left_out_and_how_many_rows_were_read(folder):
    write(folder, "train.jsonl")
    write(folder, "test.jsonl")
    datasets = (Dataset(name="rows", path=str(folder)),)
    notes = check_rows([Variant(name="v", datasets=datasets, split={"heldout": 0.5})]).notes
    assert "left out test.jsonl" in notes[0] and "train.jsonl: 2 rows read." in notes[1]


def test_validate_refuses_rows_that_all_fall_on_one_side_of_the_split(folder):
    write_jsonl(folder / "train.jsonl", [{"instruction": "q", "output": "a"}] * 40)
    variant = Variant(name="v", datasets=(Dataset(name="rows", path=str(folder)),))
    with pytest.raises(ConfigError, match=r"datasets\.rows: the split leaves (0|40) of 40 rows"):
        check_rows([variant])


def test_a_folder_that_is_not_there_or_may_not_be_read_is_no_traceback(folder, monkeypatch):
    with pytest.raises(SourceError, match="no file in"):
        row_files(folder / "gone", DEFAULT_PATTERNS, "rows")
    write(folder, "a.jsonl")
    write(folder, "locked/b.jsonl")
    entries = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: _refuse(path, entries))
    rows, [warning] = read(folder)
    assert rows == 2 and "left out locked: cannot be read (Permission denied)" in warning


def _refuse(path, entries):
    if path.name == "locked":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return entries(path)


def test_patterns_mean_what_they_mean_to_pathlib(folder):
    for name in ("a.jsonl", "b/a.jsonl", "b/c/train-1.jsonl", "b/c/d.json", "[x].jsonl"):
        write(folder, name)
    for pattern in ("*.jsonl", "**/*.jsonl", "b/*", "b/**/*.json*", "*/c/*train*", "?.jsonl"):
        expected = sorted(path for path in folder.glob(pattern) if path.is_file())
        assert row_files(folder, (pattern,), "rows").files == expected, pattern


def test_the_hub_is_asked_for_packed_files_too():
    from fnmatch import fnmatch

    patterns = selected(hub_patterns(DEFAULT_PATTERNS))["allow_patterns"]
    for name in ("a.jsonl.gz", "x/b.ndjson", "c.tsv", "x/y/d.csv.zst"):
        assert any(fnmatch(name, pattern) for pattern in patterns)
    assert hub_patterns(("a/*.jsonl",)) == ("a/*.jsonl",)

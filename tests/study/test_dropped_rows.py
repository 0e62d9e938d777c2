"""Rows that are set aside: numbered alike by every command, each with its own reason."""

import json

import pytest
import yaml

from chatpipe.config.yaml_files import to_yaml
from chatpipe.study.loading import load_variant
from chatpipe.study.lookup import stored_heldout_sets
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from tests.support.commands import invoke
from tests.support.rows import alpaca_rows

BAD = {
    '{"instruction": "x", "output": 5}': "not text (output is a number)",
    '{"instruction": "x", "output": ""}': "empty output",
    "not json": "undecodable (is no JSON: expecting value at character 1)",
    "[1]": "undecodable (is a list, not an object)",
    '{"instruction": "a", "output": "b", "output": "c"}': "a key is there twice (key output)",
}


@pytest.fixture
def variant(tmp_path, chatpipe_home, tiny_model_dir):
    lines = [json.dumps(row) for row in alpaca_rows(40)]
    lines[1:1] = [lines[0]]
    for place, line in zip((10, 13, 20, 30, 42), BAD, strict=True):
        lines[place:place] = ["", line] if place == 10 else [line]  # a blank line is no row
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    file = tmp_path / "mine.yaml"
    dataset = {"name": "rows", "path": str(tmp_path / "rows.jsonl")}
    file.write_text(to_yaml({"base_model": {"repo": str(tiny_model_dir)}, "datasets": [dataset]}))
    return file


def test_a_row_has_one_number_and_a_reason_of_its_own(variant):
    numbers = [11, 13, 20, 30, 42]
    rows = variant.with_name("rows.jsonl")
    said = invoke("validate", rows).output
    expected = dict(zip(numbers, BAD.values(), strict=True))
    assert all(f"row {number}: {reason}." in said for number, reason in expected.items())
    assert "row: duplicate of an earlier one" in invoke("validate", variant).output
    refused = invoke("show", variant, "--dropped")
    assert refused.exit_code == 1 and "first" in refused.output  # nothing of it is stored
    mine = load_variant(str(variant))
    Recipe([mine], StoreBuilder()).corpus(mine)
    shown = [json.loads(line) for line in invoke("show", variant, "--dropped").output.splitlines()]
    assert {row["row"]: row["reason"] for row in shown if "row" in row} == expected
    assert {row.get("file") for row in shown[:-1]} == {str(rows)}
    assert shown[-1]["reason"] == "duplicate" and shown[-1]["id"] and shown[-1]["output"]
    assert [len(row) for row in shown if row["reason"].startswith("undecodable")] == [4, 4]
    assert "show: --dropped goes with a variant" in invoke("show", "--dropped").output


def shown_rows(variant):
    lines = invoke("show", variant, "--dropped").output.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("split", ["hash", "none"])
def test_rows_are_of_the_file_within_the_source(tmp_path, chatpipe_home, tiny_model_dir, split):
    """Files of one name in two directories cannot be told apart: only their name is printed."""
    source = tmp_path / "source"
    good = [json.dumps(row) for row in alpaca_rows(40)]
    for place, bad in (("a/rows", "[1]"), ("b/rows", "not json"), ("data/train", "[1]")):
        file = source / f"{place}.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join([*good, bad]) + "\n")
    variant = tmp_path / "mine.yaml"
    dataset = {"name": "rows", "path": str(source), "files": ["**/*.jsonl"]}
    settings = {"base_model": {"repo": str(tiny_model_dir)}, "datasets": [dataset]}
    variant.write_text(to_yaml({**settings, "split": {"method": split}}))
    mine = load_variant(str(variant))
    Recipe([mine], StoreBuilder()).corpus(mine)
    named = [(row["file"], row["reason"]) for row in shown_rows(variant) if "file" in row]
    assert named == [
        ("rows.jsonl", "undecodable"),
        ("rows.jsonl", "undecodable"),
        (str(source / "data/train.jsonl"), "undecodable (is a list, not an object)"),
    ]


def test_an_imported_variant_has_rows_set_aside_and_no_corpus(variant, tmp_path):
    """Its study scores it on the held-out rows; those need a run, the adapter's files do not."""
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in [*alpaca_rows(44)[40:], {}]))
    settings = yaml.safe_load(variant.read_text())
    settings["imported"] = {"path": str(tmp_path), "content": "0" * 64}
    settings["heldout"] = {"name": "own", "path": str(own), "format": "alpaca"}
    variant.write_text(to_yaml(settings))
    mine = load_variant(str(variant))
    recipe = Recipe([mine], StoreBuilder())
    recipe.heldout(mine.datasets[0], mine.split)
    refused = invoke("show", variant, "--dropped")  # half of it is stored: nothing is printed
    assert refused.exit_code == 1 and "first" in refused.output and "{" not in refused.output
    recipe.heldout_sets()
    rows = shown_rows(variant)
    reasons = [row["reason"] for row in rows if row["dataset"] == "rows"]
    assert reasons == [*BAD.values(), "duplicate"]
    assert [row["file"] for row in rows if row["dataset"] == "own"] == [str(own)]


def test_rows_of_a_variant_that_ran_only_in_a_study_are_known(variant, tmp_path):
    """The study's other data set decides, too, which rows of one's own are set aside."""
    ours, others = tmp_path / "own.jsonl", tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps(row) + "\n" for row in alpaca_rows(60)[40:]))
    ours.write_text("".join(json.dumps(row) + "\n" for row in alpaca_rows(64)[58:]))
    settings = yaml.safe_load(variant.read_text())
    settings["heldout"] = {"name": "own", "path": str(ours), "format": "alpaca"}
    variant.write_text(to_yaml(settings))
    other = tmp_path / "other.yaml"
    settings["datasets"] = [{"name": "others", "path": str(others)}]
    settings["split"] = {"heldout": 0.1}
    other.write_text(to_yaml(settings))
    mine, another = load_variant(str(variant)), load_variant(str(other))
    recipe = Recipe([mine], StoreBuilder())
    recipe.corpus(mine)
    refused = invoke("show", variant, "--dropped")
    assert refused.exit_code == 1 and "is not in the store" in refused.output
    Recipe([mine, another], StoreBuilder()).heldout_sets()
    of_study = [row["reason"] for row in shown_rows(variant) if row["dataset"] == "own"]
    assert of_study and set(of_study) == {"with a prompt that is among the training rows of others"}
    assert {name for name, _ in stored_heldout_sets(mine)} == {"rows", "own"}
    recipe.heldout_sets()  # its own run, whose rows none of its data sets has
    assert not [row for row in shown_rows(variant) if row["dataset"] == "own"]


def test_the_plan_of_a_study_counts_its_rows(variant, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("base: mine.yaml\nvary: {lora.rank: [2, 4]}\n")
    said = " ".join(invoke("plan", study).output.split())
    assert "Data set rows: 46 rows read, 41 kept, dropped: 2 undecodable, " in said
    assert "Merged rows: 41 rows read, 40 kept, dropped: 1 duplicate." in said

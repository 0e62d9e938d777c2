"""Held-out rows of one's own: none of them is trained on, whichever variant is scored on them."""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from chatpipe.config.run_names import SEPARATOR
from chatpipe.data.normalize import RowAccount
from chatpipe.errors import ConfigError, DataError
from chatpipe.report import read_report
from chatpipe.study.checks import study_faults
from chatpipe.study.loading import load_variant
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from chatpipe.study.studies import load_study, study_variants
from tests.support.commands import invoke
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import small_variant, write_settings

ROWS = alpaca_rows(60)
OWN = [{"instruction": f"Ours {n}", "input": "", "output": f"Answer {n}."} for n in range(35)]
SAME_PROMPTS = [row | {"output": "Another answer."} for row in ROWS[:20]]


@pytest.fixture
def folder(chatpipe_home, tiny_model_dir):
    write_jsonl(chatpipe_home / "a.jsonl", ROWS[:40])
    write_jsonl(chatpipe_home / "b.jsonl", ROWS[30:])
    write_jsonl(chatpipe_home / "own.jsonl", [*OWN, *SAME_PROMPTS, OWN[0]])
    sets = [{"name": name, "path": f"{name}.jsonl"} for name in "ab"]
    settings = small_variant(tiny_model_dir, sets[0])
    write_settings(chatpipe_home / "mine.yaml", settings)
    study = {"base": "mine.yaml", "vary": {"datasets": [sets[:1], sets]}, "heldout": "own.jsonl"}
    write_settings(chatpipe_home / "study.yaml", study)
    return chatpipe_home


def cells(folder):
    path = str(folder / "study.yaml")
    return study_variants(load_study(path), origin=path)


def prompts(path):
    table = pq.read_table(path, columns=["instruction", "input"]).to_pylist()
    return {(row["instruction"], row["input"]) for row in table}


@pytest.mark.parametrize("split", ["hash", "none"])
def test_rows_whose_prompt_is_trained_on_are_dropped_and_counted(folder, split):
    variants = [
        cell.model_copy(update={"split": cell.split.model_copy(update={"method": split})})
        for cell in cells(folder)
    ]
    recipe = Recipe(variants, StoreBuilder())
    own = recipe.heldout_sets()["own"]
    trained = set().union(*(prompts(recipe.corpus(v).path / "train.parquet") for v in variants))
    kept = prompts(own.path / "heldout.parquet")
    assert not kept & trained
    assert kept == {(row["instruction"], row["input"]) for row in [*OWN, *SAME_PROMPTS]} - trained
    account = RowAccount.model_validate(own.details()["account"])
    assert account.read == 56 and account.dropped["duplicate"] == 1
    of_a = account.dropped["with a prompt that is among the training rows of a"]
    assert of_a == 55 - account.kept == pq.read_metadata(own.path / "dropped.parquet").num_rows - 1
    assert of_a == 20 if split == "none" else 8 < of_a < 20


def test_every_cell_is_scored_on_them_and_nothing_else_changes(folder):
    variants = cells(folder)
    report = read_report(Recipe(variants, StoreBuilder()).report("own").path)
    scored = {(cell.model, cell.heldout) for cell in report.scores if cell.metric == "perplexity"}
    assert {model for model, heldout in scored if heldout == "own"} == {
        model.name for model in report.models
    }
    [account] = [account for account in report.accounts if account.name == "own (held out)"]
    assert account.read == 56
    assert {v.heldout for v in report.verdicts} == {"a", "b", "own"}
    names = [variant.name for variant in variants]
    assert not any("heldout" in name for name in names) and names[0].split(SEPARATOR) == ["mine"]
    without = [variant.model_copy(update={"heldout": None}) for variant in variants]
    [first, second] = [Recipe(each, StoreBuilder()) for each in (variants, without)]
    for one, other in zip(variants, without, strict=True):
        assert first.finetune(one).key() == second.finetune(other).key()
    assert second.heldout_sets() == {
        name: rows for name, rows in first.heldout_sets().items() if name != "own"
    }


def test_a_variant_may_name_them_as_a_data_set_and_plan_checks_them(folder):
    columns = {"instruction": "q", "output": "a"}
    write_jsonl(folder / "qa.jsonl", [{"q": r["instruction"], "a": r["output"]} for r in OWN])
    raw = yaml.safe_load((folder / "mine.yaml").read_text())
    heldout = {"name": "qa", "path": "qa.jsonl", "columns": columns}
    path = str(write_settings(folder / "with.yaml", {**raw, "heldout": heldout}))
    assert load_variant(path).heldout.path == str(folder / "qa.jsonl")
    assert "qa.jsonl: 35 rows read" in invoke("validate", path).output
    steps = json.loads(invoke("plan", path, "--json").output)["steps"]
    assert {"kind": "heldout", "what": "qa"} in [{k: s[k] for k in ("kind", "what")} for s in steps]
    assert any(s["kind"] == "scores" and s["what"] == "with on qa" for s in steps)
    by_option = load_variant(str(folder / "mine.yaml"), [f"heldout={folder}/own.jsonl"])
    assert (by_option.heldout.name, by_option.name) == ("own", "mine")


@pytest.mark.parametrize(
    ("heldout", "words"),
    [
        ("gone.jsonl", "heldout: {folder}/gone.jsonl does not exist."),
        ({"name": "b", "path": "own.jsonl"}, "heldout is named b, like a data set"),
        ({"name": "own", "paht": "own.jsonl"}, "heldout.paht: unknown key; did you mean path?"),
    ],
)
def test_what_is_wrong_with_them_is_said_of_the_studys_file(folder, heldout, words):
    study = yaml.safe_load((folder / "study.yaml").read_text())
    write_settings(folder / "study.yaml", {**study, "heldout": heldout})
    with pytest.raises(ConfigError) as error:
        cells(folder)
    assert any(words.format(folder=folder) in fault for fault in error.value.faults), error.value


def test_two_sets_of_one_name_and_rows_of_which_none_is_left_are_refused(folder):
    first, second = cells(folder)
    other = second.heldout.model_copy(update={"path": str(folder / "b.jsonl")})
    [fault] = study_faults([first, second.model_copy(update={"heldout": other})])
    assert "data set own is another one in each (path: " in fault
    other = second.heldout.model_copy(update={"name": "b"})
    faults = study_faults([first.model_copy(update={"heldout": other}), second])
    assert any("b is held out by the one, and the other is trained on it" in f for f in faults)
    write_jsonl(folder / "own.jsonl", ROWS[:40])
    first = first.model_copy(update={"split": first.split.model_copy(update={"method": "none"})})
    with pytest.raises(
        DataError, match="heldout own: none of 40 rows is left to score: 40 with a prompt"
    ):
        Recipe([first], StoreBuilder()).heldout_sets()

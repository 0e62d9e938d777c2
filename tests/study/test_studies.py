"""Studies as grids of settings and seeds: cells, their names, and what they share."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
import yaml

from chatpipe.config.run_names import SEPARATOR, cell_name
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import RowAccount
from chatpipe.errors import ConfigError, DataError
from chatpipe.planning import planner
from chatpipe.study.files import deployments_dir
from chatpipe.study.loading import load_variant
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import Resolver, StoreBuilder
from chatpipe.study.selection import select
from chatpipe.study.studies import is_study, load_study, study_variants
from tests.support.commands import invoke
from tests.support.requests import Placeholders
from tests.support.rows import alpaca_rows, write_jsonl

RATES = {
    "base": "smol-merge",
    "vary": {
        "training.learning_rate": [1e-4, 2e-4],
        "datasets": [["sample-alpaca"], ["sample-alpaca", "sample-dialog"]],
    },
    "seeds": 2,
}


@pytest.fixture
def study_file(tmp_path):
    def write(content, name="rates"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return write


def cells(path, *overrides):
    return study_variants(load_study(path), overrides, path)


def test_a_grid_is_every_combination_and_every_seed(study_file):
    variants = cells(study_file(RATES))
    settings = [(v.training.learning_rate, len(v.datasets), v.training.seed) for v in variants]
    assert settings == [(r, d, s) for r in (1e-4, 2e-4) for d in (1, 2) for s in (0, 1)]
    assert len({variant.name for variant in variants}) == 8
    assert load_study(study_file(RATES)).variants == tuple(v.name for v in variants)


def test_lists_that_vary_together_are_taken_side_by_side(study_file):
    path = study_file(
        {
            "variants": ["smol-alpaca", "smol-dialog"],
            "vary_together": {"lora.rank": [4, 8], "lora.alpha": [8, 16]},
            "seeds": [3, 5],
        }
    )
    settings = [(v.lora.rank, v.lora.alpha, v.training.seed) for v in cells(path)]
    assert settings == [(4, 8, 3), (4, 8, 5), (8, 16, 3), (8, 16, 5)] * 2


def test_shares_of_the_data_are_nested_and_the_held_out_rows_are_all(
    study_file, chatpipe_home, tmp_path
):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(300))
    base = {"name": "mine", "datasets": [{"name": "rows", "path": rows.name}]}
    variants = cells(study_file({"base": base, "data_share": [0.25, 0.5, 1]}))
    assert [v.name for v in variants] == ["mine+data_share=0.25", "mine+data_share=0.5", "mine"]
    recipe = Recipe(variants, StoreBuilder())
    corpora = [recipe.corpus(variant) for variant in variants]
    ids = [set(pq.read_table(c.path / "train.parquet")["id"].to_pylist()) for c in corpora]
    heldout = [pq.read_table(c.path / "heldout.parquet")["id"].to_pylist() for c in corpora]
    assert ids[0] < ids[1] < ids[2] and heldout[0] == heldout[1] == heldout[2]
    assert [len(part) / len(ids[2]) for part in ids] == pytest.approx([0.25, 0.5, 1], abs=0.08)
    account = RowAccount.model_validate(corpora[0].details()["account"])
    assert account.dropped["beyond data_share"] == len(ids[2]) - len(ids[0])
    whole = Merge(examples=(recipe.examples(variants[0].datasets[0]),), split=variants[0].split)
    assert whole.key() == corpora[2].key  # of a store from before there was a data_share


def test_a_share_without_a_row_and_one_of_rows_that_are_not_split_are_refused(
    study_file, chatpipe_home, tmp_path
):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(40))
    base = {"name": "mine", "datasets": [{"name": "rows", "path": rows.name}]}
    [variant] = cells(study_file({"base": base, "data_share": [1e-9]}))
    with pytest.raises(DataError, match="data_share 1e-09 leaves no row to train on; raise it"):
        Recipe([variant], StoreBuilder()).corpus(variant)
    with pytest.raises(ConfigError, match=r"data_share below 1 needs split\.method hash"):
        cells(study_file({"base": {**base, "split": "none"}, "data_share": [0.5]}))


def test_a_cell_is_the_run_of_that_name(study_file):
    for cell in cells(study_file({**RATES, "vary": {"training.learning_rate": [1e-4, 2e-4]}})):
        assert load_variant(cell.name) == cell
    assert load_variant("smol-merge/lr=1e-4/seed=1").name == (
        "smol-merge+training.learning_rate=0.0001+training.seed=1"
    )
    assert (
        cell_name("mine/lr=1e-3/epochs=2.0")
        == "mine+training.learning_rate=0.001+training.epochs=2"
    )
    short = load_variant("smol-merge/datasets=sample-alpaca/epochs=2/rank=4")
    assert (len(short.datasets), short.training.epochs, short.lora.rank) == (1, 2, 4)


def test_a_cell_whose_name_has_a_digest_is_found_in_the_studies(study_file, monkeypatch, tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "variants").symlink_to(deployments_dir() / "variants")
    (tmp_path / "studies/rates.yaml").write_text(yaml.safe_dump(RATES))
    monkeypatch.setenv("CHATPIPE_DEPLOYMENTS", str(tmp_path))
    cell = cells("rates")[1]
    assert "=" not in cell.name.rpartition(SEPARATOR)[2]
    assert load_variant(cell.name) == cell
    assert load_variant(cell.name, ["lora.rank=2"]).lora.rank == 2
    assert is_study("rates") and not is_study("smol-merge")


def test_variants_stand_in_the_file_or_beside_it(study_file, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(40))
    dataset = {"name": "rows", "path": rows.name}  # relative to the file that names it
    study_file({"datasets": [dataset], "lora": {"rank": 2}}, "beside")
    path = study_file(
        {"variants": ["beside.yaml", {"name": "within", "datasets": [dataset]}], "seeds": 2}
    )
    variants = cells(path)
    assert [v.name for v in variants] == [
        *("beside", "beside+training.seed=1", "within", "within+training.seed=1")
    ]
    assert {v.datasets[0].path for v in variants} == {str(rows)}
    assert is_study(path) and not is_study(str(tmp_path / "beside.yaml"))
    varied = study_file({"base": "beside.yaml", "vary": {"datasets": [[dataset]]}})
    assert cells(varied)[0].datasets[0].path == str(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vary": {"training.learning_rate": [1e-4, -1]}}, "vary training.learning_rate=-1: "),
        ({"vary": {"lora.rnk": [4]}}, "vary lora.rnk=4: lora.rnk: unknown key; did you mean rank?"),
        ({"vary": {"lora.rank": []}}, "vary.lora.rank: at least 1 is required"),
        ({"base": "smol-mrege"}, "base: there is no 'smol-mrege'"),
        ({"variants": ["demo"]}, "give exactly one of base and variants"),
        ({"base": {"datasets": ["sample-alpaca"]}}, "base.name: this key is required"),
        ({"base": "gone.yaml"}, "gone.yaml: there is no such file"),
        ({"vary_together": {"lora.rank": [4, 8], "lora.alpha": [8]}}, "not equally long"),
        ({"vary_together": {"training.seed": [4, 8]}}, "training.seed is varied twice"),
        ({"base": "smol-merge", "variants": []}, "give exactly one of base and variants"),
        ({"seeds": [1, 1]}, "seeds: lists 1 more than once"),
        ({"seeds": [0, -1]}, "seeds: -1 is no seed"),
        ({"vary": {"lr": [1e-4, 0.0001]}}, "vary: training.learning_rate lists 0.0001 more than"),
        ({"data_share": [1, 1.0]}, "data_share: lists 1.0 more than once"),
        ({"seeds": 0}, "seeds: expected"),
        ({"train_together": 4}, "train_together: unknown key; it is a setting of a variant: "),
        ({"vary": {"lora.rank": list(range(1, 513))}}, "the study has 1,024 cells, and 1,000"),
        ({"vary": {"split.heldout": [0.1, 0.2]}}, "split differently"),
    ],
)
def test_what_is_wrong_in_a_grid_is_said_of_its_file(study_file, change, words):
    path = study_file({**RATES, **change})
    with pytest.raises(ConfigError) as error:
        cells(path)
    assert any(words in fault for fault in error.value.faults), error.value.faults
    assert all(path.rpartition("/")[0] in f or "rates: " in f for f in error.value.faults)
    assert len(set(error.value.faults)) == len(error.value.faults)


class Counting(Resolver):
    """Counts the steps of each kind that are resolved."""

    def __init__(self):
        self.resolver, self.kinds, self.adapters = Placeholders(), Counter(), set()

    def resolve(self, step):
        self.kinds[step.request.kind] += 1
        if step.request.kind == "adapter":
            self.adapters.add(step.request.key())
        return self.resolver.resolve(step)


def test_a_study_makes_each_shared_thing_once_and_hits_what_single_variants_made(
    study_file, chatpipe_home, tiny_model_dir
):
    base = {"name": "mine", "base_model": {"repo": str(tiny_model_dir)}, "datasets": []}
    variants = cells(study_file({**RATES, "base": base, "seeds": 5}))
    counting = Counting()
    Recipe(variants, counting).report("rates")
    once = {kind: counting.kinds[kind] for kind in ("raw", "examples", "base-model")}
    assert once == {"raw": 2, "examples": 2, "base-model": 1}
    assert counting.kinds["corpus"] == 2 + 2  # of each choice of data sets, and held-out rows
    assert counting.kinds["adapter"] == len(counting.adapters) == 20
    single = Counting()
    Recipe([variants[7]], single).report("single")
    assert single.adapters < counting.adapters


def test_commands_take_a_study(study_file, chatpipe_home, tiny_model_dir, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(40))
    base = {
        "name": "mine",
        "base_model": {"repo": str(tiny_model_dir)},
        "datasets": [{"name": "rows", "path": rows.name}],
    }
    path = study_file({"base": base, "vary": {"lora.rank": [2, 4]}, "seeds": 2})
    assert "rates.yaml: fine" in invoke("validate", path).output
    refused = invoke("ask", path, "Hello").output
    assert "name one of its variants" in refused and "--file prompts.jsonl" in refused
    assert "rates.yaml varies lora.rank" in invoke("plan", path, "--set", "lora.rank=8").output
    (tmp_path / "empty.jsonl").touch()
    own = study_file({"base": base, "vary": {"rank": [2, 4]}, "heldout": "empty.jsonl"}, "own")
    [fault] = invoke("validate", own).output.splitlines()
    assert fault.startswith("mine+lora.rank=2 and 1 more: heldout: ") and "is empty." in fault
    planned = invoke("plan", path).output
    assert "mine/rank=4/seed=1" in planned
    assert "0 of 4 adapters are in the store. To come: 4 trainings, tokens " in planned, planned
    limited = json.loads(invoke("plan", path, "--limit", "3", "--json").output)
    [total, now, left] = [limited[part] for part in ("total", "now", "left")]
    assert (total["trainings"], now["trainings"], left["trainings"]) == (4, 3, 1)
    assert now["tokens"] + left["tokens"] == total["tokens"] == 4 * left["tokens"] > 0
    assert now["seconds"] + left["seconds"] == pytest.approx(total["seconds"])
    assert 0 < left["disk_bytes"] < total["disk_bytes"] and total["memory_bytes"] > 0
    assert "Left for later: 1 training, " in invoke("plan", path, "--limit", "3").output
    assert "--limit: goes with a study" in invoke("plan", "smol-merge", "--limit", "3").output
    shown = yaml.safe_load(invoke("show", path).output)
    assert shown["variants"] == dict.fromkeys(
        f"mine+{name}"
        for name in (
            "lora.rank=2",
            "lora.rank=2+training.seed=1",
            "lora.rank=4",
            "lora.rank=4+training.seed=1",
        )
    )
    rows.unlink()  # what there was of a study can be shown and forgotten without its rows
    assert len(yaml.safe_load(invoke("show", path).output)["variants"]) == 4
    forgotten = invoke("forget", path)
    assert forgotten.exit_code == 1 and "rates.yaml: no adapter of it is" in forgotten.output


def test_a_limit_takes_the_first_seed_of_every_combination_first(study_file):
    variants = cells(study_file({**RATES, "seeds": 2}))
    trained = {variants[1].name, variants[2].name}
    chosen, left = select(variants, 3, trained)
    assert [variants.index(variant) for variant in chosen] == [0, 1, 2, 4, 6]
    assert [variants.index(variant) for variant in left] == [3, 5, 7]
    assert select(variants, None, trained) == (variants, [])
    assert select(variants, 0, trained).chosen == variants[1:3]


@pytest.mark.parametrize("name", ["demo", "rates", "smol-merge", "smol-merge/lr=3e-4/seed=1"])
def test_names_of_studies_variants_and_runs_are_validated(name, chatpipe_home):
    assert f"{name}: fine." in invoke("validate", name).output


@pytest.mark.parametrize("command", ["validate", "plan", "show", "forget"])
def test_a_name_that_neither_a_study_nor_a_variant_has_is_refused(command, chatpipe_home):
    refused = invoke(command, "rtes")
    assert refused.exit_code == 2
    assert "rtes: is no variant and no study; did you mean rates?" in refused.output


def test_cells_that_differ_by_seed_or_rate_share_a_plan(
    study_file, chatpipe_home, tiny_model_dir, monkeypatch
):
    base = {"name": "mine", "base_model": {"repo": str(tiny_model_dir)}, "datasets": []}
    variants = cells(study_file({**RATES, "base": base, "seeds": 3}))
    planned = []
    plan = planner.plan
    monkeypatch.setattr(planner, "plan", lambda v, **rest: planned.append(v) or plan(v, **rest))
    plans = planner.plan_each(variants, variants)
    assert [made.variant for made in plans] == [variant.name for variant in variants]
    assert len(planned) == 2  # one for each choice of data sets
    alone = plan(variants[1], study=variants)
    assert (plans[1].memory, plans[1].duration) == (alone.memory, alone.duration)

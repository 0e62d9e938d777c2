"""A study of which a model fails: the others go on, and the report and the run say what is missing.

With real Prefect, two tiny bases of which one cannot be used, and two seeds.
"""

import json

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.run import RunOptions, run_study
from chatpipe.config.schema import Study, Variant
from chatpipe.errors import IncompleteStudyError, ModelError
from chatpipe.models import inference
from chatpipe.planning.steps import DryRun
from chatpipe.planning.study_plan import plan_study
from chatpipe.report import read_report
from chatpipe.store.store import store
from chatpipe.study.export import report_directory
from chatpipe.study.loading import load_variant
from chatpipe.study.recipe import Recipe
from chatpipe.training import together
from tests.support import prefect_server
from tests.support.bases import copy_of
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import small_variant

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect", "steps_in_this_process")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir):
    """Rows, and a base whose weights are not finite, which shows when it is loaded."""
    folder = tmp_path_factory.mktemp("study")
    write_jsonl(folder / "rows.jsonl", alpaca_rows(24))
    [file] = copy_of(tiny_model_dir, folder / "base").glob("*.safetensors")
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, file, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def variants(folder, tiny_model_dir):
    def variant(name, base, seed=0):
        data = {"name": "rows", "path": str(folder / "rows.jsonl")}
        training = {"epochs": 1, "learning_rate": 0.01, "seed": seed}
        plain = small_variant(base, data, training=training, quantization={"method": "none"})
        return Variant.model_validate({"name": name, **plain})

    return [
        variant("broken", folder / "base"),
        variant("fine", tiny_model_dir),
        variant("fine+training.seed=1", tiny_model_dir, seed=1),
        variant("same", tiny_model_dir),
    ]


def run(study, variants):
    """Run the flow; return its final state, and the tables that it shows, by key."""
    from flows.compare import compare

    state = compare(study, variants, return_state=True)
    artifacts = prefect_server.artifacts_of_run(state.state_details.flow_run_id)
    tables = {a.key: json.loads(a.data) for a in artifacts if a.type == "table"}
    return state, tables


@pytest.fixture(scope="module")
def loaded_bases():
    """Bases that were loaded for scoring and answers, in order."""
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        load = inference.load_fast_base
        patch.setattr(
            inference, "load_fast_base", lambda path, q: loaded.append(path) or load(path, q)
        )
        yield loaded


@pytest.fixture(scope="module")
def first_run(variants, loaded_bases):
    return run("rates", variants)


def test_the_run_ends_failed_with_a_sentence_that_names_what_is_missing(first_run):
    state, _ = first_run
    assert state.is_failed() and state.name == "Incomplete"
    missing, again = state.message.splitlines()
    assert missing.startswith("broken is missing from the report: ") and "finite" in missing
    assert again.startswith("run it again")
    with pytest.raises(IncompleteStudyError):
        state.result()


@pytest.mark.usefixtures("first_run")
def test_the_report_has_the_others_and_says_what_is_missing():
    report = read_report(report_directory("rates"))
    assert [model.name for model in report.variants] == ["fine", "fine+training.seed=1", "same"]
    assert len(report.bases) == 1
    [missing] = report.missing
    assert missing.name == "broken" and "finite" in missing.reason


@pytest.mark.usefixtures("first_run")
def test_every_variant_has_a_name_from_the_run_s_beginning_also_one_that_fails(variants):
    assert [load_variant(variant.name) for variant in variants] == variants
    assert load_variant("fine/seed=1") == variants[2]


def test_a_table_in_the_dashboard_has_what_became_of_every_model(first_run):
    table = {row["model"]: row for row in first_run[1]["rates-cells"]}
    assert [row["state"] for row in table.values()] == ["failed", *4 * ["measured"]]
    report = read_report(report_directory("rates"))
    for model in report.models:
        score = report.score(model.name, "rows")
        assert table[model.name]["perplexity on rows"] == round(score.value, 3)


def test_an_early_table_has_the_first_seeds(first_run):
    text = json.dumps(first_run[1]["rates-early"])
    assert "fine" in text and "seed=1" not in text


def test_a_base_is_loaded_for_the_first_seeds_and_once_for_all_others(first_run, loaded_bases):
    assert len(loaded_bases) == 1  # one process here; a run has a process for each of the two


def test_a_study_of_which_no_variant_is_left_raises_the_error(variants):
    state, _ = run("alone", variants[:1])
    with pytest.raises(ModelError):
        state.result()
    assert not report_directory("alone").exists()


@pytest.mark.usefixtures("first_run")
def test_the_command_prints_the_report_and_then_fails_with_what_is_missing(variants, capfd):
    study = Study(name="rates", variants=tuple(variant.name for variant in variants))
    with pytest.raises(typer.Exit) as end, exit_on_error():
        run_study(study, variants, RunOptions())
    printed = capfd.readouterr()
    assert end.value.exit_code == 1
    assert "1 of 5 models is missing in all figures: broken." in printed.out
    assert "broken is missing from the report: " in printed.err and "run it again" in printed.err


@pytest.mark.usefixtures("first_run")
def test_with_a_limit_the_report_begins_with_what_is_left_for_later(variants, capfd):
    left = "This report is without 1 of 3 variants, which the same command trains next."
    later = variants[1].model_copy(update={"name": "later", "data_share": 0.5})
    study = Study(name="limited", variants=("fine", "fine+training.seed=1", "later"))
    run_study(study, [*variants[1:3], later], RunOptions(limit=0))
    report = read_report(report_directory("limited"))
    assert [model.name for model in report.variants] == ["fine", "fine+training.seed=1"]
    assert report.unfinished == [left]
    assert left in capfd.readouterr().out


@pytest.mark.usefixtures("first_run")
def test_trainings_that_share_passes_are_steps_of_their_own(variants, monkeypatch):
    """One fails, and the others are stored before the longest, whose step is the first, is done;
    they are those that the plan names."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from tasks.caching import BUILT

    def variant(name, **training):
        training = variants[1].training.model_copy(update=training)
        update = {"name": name, "training": training, "train_together": 4}
        return variants[1].model_copy(update=update)

    cells = [
        variant("short", learning_rate=0.02),
        variant("long", epochs=2.0),
        variant("failing", learning_rate=1e-300),
        variant("other-passes", micro_batch_tokens=512),
    ]
    planned = [group.variants for group in plan_study("shared", cells).groups]
    assert planned == [("long", "short", "failing")]
    shared = []
    start = together._Group.__init__

    def observed(group, requests, *rest):
        shared.append([request.key() for request in requests])
        start(group, requests, *rest)

    monkeypatch.setattr(together._Group, "__init__", observed)
    BUILT.clear()
    state, tables = run("shared", cells)
    recipe = Recipe(cells, DryRun())
    keys = {cell.name: recipe.finetune(cell).key() for cell in cells}
    assert [tuple(keys[name] for name in names) for names in planned] == list(map(tuple, shared))
    assert state.name == "Incomplete" and "the adapter is all zero" in state.message
    report = read_report(report_directory("shared"))
    assert [model.name for model in report.variants] == ["short", "long", "other-passes"]
    built = [name for name in BUILT if name.startswith("adapter/")]
    assert len(built) == 3
    details = [store().check(*key.split("/")).details() for key in built]
    assert [one.get("trained_together") for one in details] == [3, 3, None]
    assert details[0]["optimizer_steps"] == 2 * details[1]["optimizer_steps"]
    this_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=this_run)
    names = {task.name: task.state_name for task in tasks}
    assert names["fine-tune long"] == names["fine-tune short"] == "Completed"
    assert names["fine-tune failing"] == "Failed"
    assert {row["model"]: row["state"] for row in tables["shared-cells"]}["failing"] == "failed"

    BUILT.clear()
    separately = [cell.model_copy(update={"train_together": "off"}) for cell in cells]
    run("shared", separately)
    assert [name for name in BUILT if not name.startswith("report/")] == []  # the same keys


@pytest.mark.usefixtures("first_run")
def test_the_same_run_again_builds_only_what_is_missing(variants, folder, tiny_model_dir):
    from tasks.caching import BUILT

    BUILT.clear()
    state, tables = run("rates", variants)
    assert state.name == "Incomplete" and [name for name in BUILT if "report/" not in name] == []

    for file in tiny_model_dir.glob("*.safetensors"):
        (folder / "base" / file.name).write_bytes(file.read_bytes())
    state, tables = run("rates", variants)
    assert state.is_completed()
    assert sum(name.startswith("adapter/") for name in BUILT) <= 1
    assert {row["state"] for row in tables["rates-cells"]} == {"measured"}
    assert "broken" in [model.name for model in read_report(state.result().path).models]

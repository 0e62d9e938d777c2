"""The story with real Prefect, real NF4 and a tiny model: what runs again, and what does not."""

import json

import pytest

from chatpipe.config.prompt_schema import Prompt
from chatpipe.rating.pairs import make_pairs, models_of
from chatpipe.rating.session import Judgement, Session
from chatpipe.report import Report
from chatpipe.store.manifest import MANIFEST
from chatpipe.store.store import store
from chatpipe.study.loading import load_variant
from chatpipe.study.rated_answers import answers_to
from tests.support import prefect_server
from tests.support.rows import alpaca_rows, dialogue_rows, write_jsonl
from tests.support.variants import ALPACA, DIALOGUES, small_variant, write_settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("flows")
    write_jsonl(folder / "a.jsonl", alpaca_rows(24))
    write_jsonl(folder / "d.jsonl", dialogue_rows(24))
    return {"folder": folder, **small_variant(tiny_model_dir, ALPACA, DIALOGUES)}


def variant(settings, name="first", *overrides):
    plain = {key: value for key, value in settings.items() if key != "folder"}
    path = write_settings(settings["folder"] / f"{name}.yaml", plain)
    return load_variant(str(path), overrides)


def run(*variants):
    """(the report, the kinds of what was built, in order)."""
    from flows.compare import compare
    from tasks.caching import BUILT

    BUILT.clear()
    artifact = compare("flows", list(variants))
    report = Report.model_validate_json((artifact.path / "report.json").read_text("utf-8"))
    return report, [name.partition("/")[0] for name in BUILT]


@pytest.fixture(scope="module")
def first(settings):
    return run(variant(settings))


def test_every_model_is_scored_on_every_set_and_answers_every_prompt(first):
    report, built = first
    assert {"raw", "examples", "corpus", "base-model", "adapter", "scores"} <= set(built)
    models = [model.name for model in report.models]
    assert len(models) == 2 and models[1] == "first"
    assert [heldout.name for heldout in report.heldout] == ["a", "d", "a + d"]
    assert {(cell.model, cell.heldout) for cell in report.scores} == {
        (model, heldout.name) for model in models for heldout in report.heldout
    }
    asked = {(answer.model, answer.prompt_id, answer.asked) for answer in report.answers}
    assert len(asked) == 3 + 6
    assert not report.seen()


def test_base_and_adapter_answer_in_one_batch(first):
    report, _ = first
    answers = [
        manifest["details"]
        for manifest in store().manifests("generations")
        if (manifest["asked"]["adapter"] or {}).get("digest") == report.models[1].adapter_digest
    ]
    assert [details["models_asked_together"] for details in answers] == [2]


def test_a_second_run_is_all_cached(first, settings):
    assert run(variant(settings))[1] == []


def test_a_new_name_rewrites_only_the_report(first, settings):
    report, built = run(variant(settings, "renamed"))
    assert built == ["report"]
    assert report.models[1].name == "renamed"


def test_a_rating_rewrites_only_the_report_and_none_is_needed_to_have_it_cached(first, settings):
    report, _ = first
    session = Session("flows", make_pairs(models_of(report), report.answers, seed=0))
    token = session.state("Ada")["pair"]["token"]
    session.rate("Ada", Judgement(token=token, verdict="a"))
    rated, built = run(variant(settings))
    assert built == ["report"] and rated.ratings.people.ratings == 1
    assert not rated.ratings.left_out and run(variant(settings))[1] == []
    session.undo("Ada")
    assert run(variant(settings))[1] == []  # the report without ratings is there


@pytest.mark.usefixtures("steps_in_this_process")
def test_prompts_of_a_file_are_answered_once_by_every_model_of_the_study(first, settings):
    report, _ = first
    prompts = [Prompt(id=f"line-{n}", instruction=f"Paint river {n}.") for n in range(18)]
    steps = []
    models, answers = answers_to(
        report, [variant(settings)], prompts, lambda done, of: steps.append((done, of))
    )
    assert models == models_of(report) and steps == [(done, 4) for done in range(4)]
    assert {(a.model, a.instruction) for a in answers} == {
        (name, prompt.instruction) for name in models for prompt in prompts
    }
    stored = len(list(store().manifests("generations")))
    assert answers_to(report, [variant(settings)], prompts, lambda *_: None)[1] == answers
    assert len(list(store().manifests("generations"))) == stored
    pairs = make_pairs(models, answers, seed=0)
    assert len(pairs.rated) + pairs.same == 18


@pytest.mark.usefixtures("first", "steps_in_this_process")
def test_another_rank_retrains_but_does_not_merge_again(settings):
    _, built = run(variant(settings, "first", "lora.rank=2"))
    assert built == ["adapter", "scores", "scores", "generations", "report"]


def test_a_deleted_artifact_is_rebuilt_and_nothing_else(first, settings):
    doomed = next(
        path
        for path in store().all()
        if path.parent.name == "corpus" and len(asked(path)["examples"]) == 2
    )
    store().forget(doomed)
    assert run(variant(settings))[1] == ["corpus"]


def test_a_damaged_artifact_is_rebuilt(first, settings):
    [examples] = [
        p for p in store().all() if p.parent.name == "examples" and asked(p)["name"] == "a"
    ]
    (examples / "examples.parquet").write_bytes(b"half")
    assert run(variant(settings))[1] == ["examples"]


@pytest.mark.usefixtures("first", "steps_in_this_process")
def test_a_changed_source_file_is_noticed(settings):
    path = settings["folder"] / "d.jsonl"
    before = path.read_text()
    write_jsonl(path, dialogue_rows(26))
    _, built = run(variant(settings))
    path.write_text(before)
    assert built.count("raw") == 1 and built.count("examples") == 1 and "adapter" in built


def test_what_a_person_watches_is_in_prefect(first):
    page = prefect_server.artifacts_of_key("flows-report")[0]
    artifacts = prefect_server.artifacts_of_run(page.flow_run_id)
    kinds = {artifact.type for artifact in artifacts}
    assert "plan-first" in {artifact.key for artifact in artifacts}
    assert {"table", "markdown", "progress", "image"} <= kinds
    # The dashboard shows the report by itself, wherever it is opened: no address of this machine.
    of_run = {artifact.key: artifact.data for artifact in artifacts}
    for name in ("matrix", "loss"):
        assert f"({of_run[f'flows-{name}']})" in page.data
    assert "file:" not in "".join(map(str, (artifact.data for artifact in artifacts)))


def asked(path):
    return json.loads((path / MANIFEST).read_text("utf-8"))["asked"]

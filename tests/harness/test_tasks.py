"""Tasks of lm-evaluation-harness: the same results for every item as from the harness alone."""

import importlib.util
import json

import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_rel

pytest.importorskip("lm_eval", reason="comes with the extra `tasks`")
from chatpipe.config.schema import BaseModelRef, Quantization
from chatpipe.errors import ConfigError, ModelError, SourceError
from chatpipe.harness import FetchTask, RunTask
from chatpipe.harness.language_model import PackedModel
from chatpipe.harness.run_task import ITEMS, RESULTS
from chatpipe.planning.checks import check_variant
from chatpipe.planning.planner import plan
from chatpipe.report import read_report, render_html
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.artifact import recorded_manifest, references
from chatpipe.store.store import store, verify
from chatpipe.study.loading import load_variant
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from tests.support.adapters import RandomAdapter
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.tasks import (
    GENERATED,
    LAST_WORD,
    MULTIPLE_CHOICE,
    TASKS,
    write_task,
    write_tasks,
)
from tests.support.variants import small_variant, write_settings

POSITIONS = 1024  # of the tiny model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPIPE_HOME", str(folder / "store"))
        yield folder


@pytest.fixture(scope="module")
def adapter(home, tiny_model_dir):
    base = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(tiny_model_dir))))
    return store().get_or_build(RandomAdapter(base=base, seed=1))


@pytest.fixture(scope="module")
def fetched(home):
    files = write_tasks(home / "tasks")
    return {file.stem: store().get_or_build(FetchTask.of(str(file))) for file in files}


@pytest.fixture(scope="module")
def reference(home, adapter, fetched, tiny_model_dir):
    """lm_eval's own results for the same files, with the adapter by its `peft=`."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    model = HFLM(
        str(tiny_model_dir),
        peft=str(adapter.path),
        device="cpu",
        dtype="float32",
        batch_size=3,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home / "tasks")  # the harness looks for data where it was started
        return lm_eval.simple_evaluate(model, tasks=[f"{name}.yaml" for name in TASKS])


def run(adapter, task):
    """The request for the adapter's results of that task."""
    [base] = references(recorded_manifest(adapter)["asked"])
    return RunTask(
        base=base,
        adapter=adapter,
        task=task,
        quantization=Quantization(method="none", compute_dtype="float32"),
        batch_tokens=256,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_item_is_as_lm_eval_has_it_with_peft(name, adapter, fetched, reference):
    artifact = store().get_or_build(run(adapter, fetched[name]))
    rows = pq.read_table(artifact.path / ITEMS).to_pylist()
    samples = {sample["doc_id"]: sample for sample in reference["samples"][name]}
    assert len(rows) == len(samples) * len(next(iter(samples.values()))["metrics"])
    for row in rows:
        sample = samples[int(row["id"].partition(":")[0])]
        expected = sample[row["metric"]]
        if isinstance(expected, tuple):
            assert row["weight"] == expected[1]
            expected = expected[0]
        if row["scale"] == "mean":
            assert row["value"] == expected
        else:
            nats = row["value"] * (0.6931471805599453 if row["scale"] == "bits" else 1)
            assert nats == pytest.approx(-expected, abs=2e-4)
        responses = json.loads(row["response"])
        if name == "generated":
            assert responses == sample["filtered_resps"]
        elif name == "colours":
            for (ours, is_greedy), (theirs, greedy) in zip(
                responses, sample["filtered_resps"], strict=True
            ):
                assert float(ours) == pytest.approx(float(theirs), abs=2e-4)
                assert is_greedy == greedy
    figures = json.loads((artifact.path / RESULTS).read_text())[name]["figures"]
    for metric, value in figures.items():
        assert value == pytest.approx(reference["results"][name][metric], rel=1e-4)
    verify(fetched[name].path, deep=True)
    assert not list(fetched[name].path.rglob("__pycache__"))


def test_a_task_is_known_by_what_is_in_its_files(tmp_path, home, fetched):
    """Not by where these are; a row more is another task."""
    [colours, *_] = write_tasks(tmp_path)
    same = FetchTask.of(str(colours))
    assert same.key() == fetched["colours"].key
    write_tasks(tmp_path, count=13)
    assert FetchTask.of(str(colours)).key() != same.key()


def test_code_beside_a_task_is_a_part_of_it(tmp_path, home):
    write_tasks(tmp_path)
    (tmp_path / "parts").mkdir()
    code = tmp_path / "helpers.py"
    code.write_text("def text(doc):\n    return 'Say ' + doc['text']\n")
    path = write_task(tmp_path, "own", GENERATED)
    text = path.read_text().replace(
        "doc_to_text: '{{question}}'", "doc_to_text: !function helpers.text"
    )
    path.write_text(text)
    request = FetchTask.of(str(path))
    artifact = store().get_or_build(request)
    assert {file.name for file in (artifact.path / "source").iterdir()} == {
        "own.yaml",
        "helpers.py",
    }
    code.write_text("def text(doc):\n    return doc['text']\n")
    assert FetchTask.of(str(path)).key() != request.key()


@pytest.mark.slow
def test_a_report_says_what_got_worse_elsewhere(tmp_path, home, tiny_model_dir):
    """Paths of tasks count from the variant's file; intervals are paired by item."""
    write_tasks(tmp_path / "tasks", count=40)
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(40))
    settings = small_variant(
        tiny_model_dir,
        {"name": "rows", "path": str(rows)},
        training={"epochs": 2, "learning_rate": 0.05},
        evaluation={"tasks": [f"tasks/{name}.yaml" for name in ("colours", "rolling")]},
    )
    variant = load_variant(str(write_settings(tmp_path / "v.yaml", settings)))
    again = load_variant(str(tmp_path / "v.yaml"), ["evaluation.tasks=[]"])
    assert variant.evaluation.tasks[0] == str(tmp_path / "tasks" / "colours.yaml")
    assert again.evaluation.tasks == ()
    assert not plan(variant).faults
    recipe = Recipe([variant], StoreBuilder())
    report = read_report(recipe.report("elsewhere").path)
    [base], [tuned] = report.bases, report.variants
    scores = {(s.configuration, s.metric): s for s in report.task_scores}
    metrics = {"acc", "acc_norm", "log word_perplexity", "bits_per_byte"}
    assert scores.keys() == {
        (name, metric) for name in (base.name, tuned.name) for metric in metrics
    }
    values = {}
    for model in (*recipe.base_models(), *recipe.finetuned_models()):
        [step, _] = model.task_steps(recipe.tasks())
        items = pq.read_table(store().get_or_build(step.request).path / ITEMS).to_pandas()
        values[model.name] = items[items["metric"] == "acc"]["value"].to_numpy()
    accuracy = scores[tuned.name, "acc"]
    pair = ttest_rel(values[tuned.name], values[base.name])
    assert accuracy.value == pytest.approx(values[tuned.name].mean())
    interval = pair.confidence_interval()
    assert (accuracy.difference_low, accuracy.difference_high) == pytest.approx(tuple(interval))
    bits = scores[tuned.name, "bits_per_byte"]
    assert bits.higher_is_better is False
    assert bits.verdict == ("worse" if bits.difference > 0 else "better")
    page = render_html(report)
    assert "word_perplexity" in page
    assert f"{bits.verdict}" in page


def test_a_missing_file_and_a_missing_package_are_said_before_anything_runs(
    tmp_path, home, tiny_model_dir, monkeypatch
):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(40))
    settings = small_variant(
        tiny_model_dir,
        {"name": "rows", "path": str(rows)},
        evaluation={"tasks": ["gone.yaml"]},
    )
    variant = load_variant(str(write_settings(tmp_path / "v.yaml", settings)))
    [fault] = plan(variant).faults
    assert fault == f"evaluation.tasks: {tmp_path / 'gone.yaml'} does not exist."
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: name != "lm_eval" and find(name, *more)
    )
    with pytest.raises(ConfigError, match=r"pip install 'chatpipe\[tasks\]'"):
        check_variant(variant)


REFUSED = {
    "unsafe_code": ({"unsafe_code": True}, "runs code that a model wrote"),
    "hub metric": ({"metric_list": [{"metric": "wer"}]}, "Python code of the hub"),
    "beams": (
        {"generation_kwargs": {"until": ["."], "num_beams": 4}},
        "generation_kwargs has num_beams",
    ),
    "data": (
        {"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}},
        "gone.jsonl does not exist",
    ),
    "column": ({"doc_to_target": "{{nothing.at.all}}"}, "cannot be loaded: "),
    "split": ({"test_split": "dev"}, "cannot be loaded: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_in_one_sentence(case, tmp_path, home):
    write_tasks(tmp_path)
    settings, sentence = REFUSED[case]
    path = write_task(tmp_path, "own", {**GENERATED, **settings})
    with pytest.raises((ConfigError, SourceError), match=sentence):
        store().get_or_build(FetchTask.of(str(path)))


def test_remote_code_is_never_trusted(tmp_path, home, monkeypatch):
    import datasets

    write_tasks(tmp_path)
    path = write_task(tmp_path, "own", MULTIPLE_CHOICE)
    text = path.read_text().replace("dataset_kwargs:", "dataset_kwargs:\n  trust_remote_code: true")
    path.write_text(text)
    loaded, load = [], datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *a, **options: loaded.append(options) or load(*a, **options),
    )
    store().get_or_build(FetchTask.of(str(path)))
    assert loaded and all("trust_remote_code" not in options for options in loaded)


def generated(folder, most):
    """A task whose answers have up to so many tokens."""
    write_tasks(folder)
    settings = {"until": ["e"], "max_gen_toks": most, "do_sample": False}
    return write_task(folder, "long", {**GENERATED, "generation_kwargs": settings})


@pytest.mark.parametrize("more", [0, 1])
def test_answers_that_leave_no_room_for_a_prompt_are_refused(tmp_path, home, adapter, more):
    """Prompts would not be cut, or at the wrong end."""
    file = generated(tmp_path, POSITIONS + more)
    task = store().get_or_build(FetchTask.of(str(file)))
    with pytest.raises(ModelError, match="the base was made for 1,024, the prompt included"):
        store().get_or_build(run(adapter, task))


def test_a_text_to_score_that_is_longer_than_the_base_reads_is_refused(tmp_path, home, adapter):
    write_tasks(tmp_path)
    text = {**LAST_WORD, "doc_to_target": "{{text * 100}}"}
    task = store().get_or_build(FetchTask.of(str(write_task(tmp_path, "long", text))))
    with pytest.raises(ModelError, match="tokens, and the base was made for 1,024; leave its task"):
        store().get_or_build(run(adapter, task))


def test_answers_that_are_too_long_for_the_base_are_refused_before_a_training(
    tmp_path, home, tiny_model_dir
):
    rows = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows(40))
    task = {"tasks": [str(generated(tmp_path, POSITIONS))]}
    data = {"name": "rows", "path": str(rows)}
    settings = small_variant(tiny_model_dir, data, evaluation=task)
    variant = load_variant(str(write_settings(tmp_path / "v.yaml", settings)))
    recipe = Recipe([variant], StoreBuilder())
    with pytest.raises(ConfigError, match="tasks: long: an answer may have 1,024 tokens, and the"):
        recipe.report("elsewhere")
    assert store().lookup(recipe.finetune(variant)) is None


@pytest.mark.slow
def test_answers_may_be_longer_than_a_variant_s(tmp_path, home, adapter):
    """A setting of the panel has a bound, a task has none but the base's positions."""
    task = store().get_or_build(FetchTask.of(str(generated(tmp_path, 10_000))))
    request = run(adapter, task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedModel, "max_length", 20_000)
        results = store().get_or_build(request)
    rows = pq.read_table(results.path / ITEMS).to_pylist()
    assert len(rows) == 12 and not any("e" in row["response"] for row in rows)

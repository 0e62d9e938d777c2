"""A study of variants that are measured differently, with real Prefect and a tiny model."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.config.schema import Variant
from chatpipe.evaluation.perplexity import perplexity
from chatpipe.planning.planner import plan
from chatpipe.report import read_report
from chatpipe.store.manifest import read_manifest
from chatpipe.store.store import store
from chatpipe.study.lookup import LookUp
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from tests.support.bases import copy_of
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import small_variant

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect", "steps_in_this_process")]
SAMPLES = 200


@pytest.fixture(scope="module")
def variants(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("study")
    base = copy_of(tiny_model_dir, folder / "base")
    (base / "chat_template.jinja").write_text(CHAT_TEMPLATES["zephyr"])
    rows = alpaca_rows(40)
    for row in rows[::4]:
        row["output"] *= 12  # too long for a variant that counts rows out sooner
    path = write_jsonl(folder / "rows.jsonl", rows)

    def variant(name, **settings):
        plain = small_variant(
            base,
            {"name": "rows", "path": str(path)},
            split={"heldout": 0.4},
            training={"epochs": 1, "learning_rate": 0.02},
            evaluation={"bootstrap_samples": SAMPLES, "replies": 3},
        )
        return Variant.model_validate({"name": name, **plain, **settings})

    cut = {"bootstrap_samples": SAMPLES, "max_length": 400, "replies": 3}
    return [
        variant("long"),
        variant("short", prompt_template="short", evaluation=cut),
        variant(base.name, evaluation=cut),  # a variant that is called like its base
    ]


@pytest.fixture(scope="module")
def study(variants):
    from flows.compare import compare

    return compare("differently-measured", variants)


@pytest.fixture(scope="module")
def report(study):
    return read_report(study.path)


def test_the_run_is_looked_up_as_it_was_built(study, variants):
    """By Prefect's tasks, in this process, and by a look-up: the same report."""
    from tasks.caching import BUILT

    assert {name.partition("/")[0] for name in BUILT} >= {
        *("adapter", "template-check", "scores", "generations", "replies")
    }
    for resolver in (LookUp("a study"), StoreBuilder()):
        assert Recipe(variants, resolver).report("differently-measured") == study


def test_every_model_answers_prompts_of_the_held_out_rows_too(study, report):
    of_rows = [answer for answer in report.answers if answer.dataset]
    prompts = {answer.instruction for answer in of_rows}
    assert {answer.dataset for answer in of_rows} == {"rows"} and len(prompts) == 2
    models = {model.name for model in report.models}
    assert {(a.model, a.prompt_id) for a in of_rows} == {
        (model, name) for model in models for name in ("heldout-1", "heldout-2")
    }
    page = (study.path / "report.html").read_text("utf-8")
    assert page.count("a prompt of rows&#39;s held-out rows") == 2


def scored_rows(study, template, max_length, adapter):
    """{row id: (nats, tokens)} of the responses, of whichever model of the study was scored with
    that."""
    [path] = [
        path
        for artifact in study.lineage()
        if artifact["kind"] == "scores"
        and (path := store().path("scores", artifact["key"]))
        and (asked := read_manifest(path)["asked"])["prompt_template"]["name"] == template
        and asked["max_length"] == max_length
        and (asked["adapter"] or {}).get("digest") == adapter
    ]
    rows = pq.read_table(path / "nats.parquet").to_pylist()
    return {r["id"]: (r["nats"], r["tokens"]) for r in rows if r["labels"] == "response"}


def test_every_base_has_a_name_and_every_variant_its_own(report, variants):
    name = "base"
    bases = [
        f"{name} (template alpaca, evaluation.max_length 2048)",
        f"{name} (template short, evaluation.max_length 400)",
        f"{name} (template alpaca, evaluation.max_length 400)",
    ]
    own = [
        f"{name} (evaluation.max_length 2048, own chat template)",
        f"{name} (evaluation.max_length 400, own chat template)",
    ]
    names = [model.name for model in report.models]
    assert names == [*bases, *own, *(v.name for v in variants)]
    assert [model.own_template_base for model in report.variants] == [own[0], own[1], own[1]]
    assert [difference.base for difference in report.differences] == bases


def test_differences_are_those_of_the_rows_scored_alike(study, report, variants):
    counts = []
    for variant in variants:
        [model] = [m for m in report.variants if m.name == variant.name]
        settings = (variant.prompt_template.name, variant.evaluation.max_length)
        tuned, base = (scored_rows(study, *settings, a) for a in (model.adapter_digest, None))
        assert tuned.keys() == base.keys()
        ids = sorted(tuned)
        nats, base_nats = (np.array([rows[i][0] for i in ids]) for rows in (tuned, base))
        tokens = np.array([tuned[i][1] for i in ids], float)
        drawn = np.random.default_rng(0).integers(0, len(ids), (SAMPLES, len(ids)))
        gaps = perplexity(nats[drawn], tokens[drawn]) - perplexity(base_nats[drawn], tokens[drawn])
        difference = report.difference(variant.name, "rows")
        expected = (
            np.exp(nats.sum() / tokens.sum()) - np.exp(base_nats.sum() / tokens.sum()),
            *np.quantile(gaps, [0.025, 0.975]),
        )
        assert (difference.value, difference.low, difference.high) == pytest.approx(expected)
        assert difference.rows == len(ids) and difference.left_out == 0
        counts.append(len(ids))
    assert counts[0] == report.heldout[0].rows > max(counts[1:])


def test_the_plan_of_each_variant_finds_all_that_the_study_made(report, variants):
    for variant in variants:
        states = {(step.kind, step.what): step.state for step in plan(variant).steps}
        assert set(states.values()) == {"exists"}, states

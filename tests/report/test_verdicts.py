"""The verdicts of a report: real trainings of a tiny model with several seeds."""

import dataclasses
import re

import numpy as np
import pytest
import yaml

from chatpipe.evaluation.row_scores import ScoreReader
from chatpipe.report import read_report, render_html, render_markdown
from chatpipe.report.comparison_tables import ranking_rows, verdict_rows
from chatpipe.report.verdict_text import verdict_sentences
from chatpipe.statistics import NoiseModel, PairedRows, Run, compare
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from chatpipe.study.studies import load_study, study_variants
from tests.support.rows import alpaca_rows, write_jsonl

SEEDS = 6


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_model_dir):
    """(the variants, the models' scores, the report) of two learning rates with six seeds each."""
    folder = tmp_path_factory.mktemp("study")
    write_jsonl(folder / "rows.jsonl", alpaca_rows(80))
    base = {
        "name": "mine",
        "base_model": {"repo": str(tiny_model_dir)},
        "datasets": [{"name": "rows", "path": "rows.jsonl"}],
        "split": {"heldout": 0.5},
        "quantization": {"method": "none", "compute_dtype": "float32"},
        "lora": {"rank": 2, "dropout": 0.0},
        "training": {"epochs": 1, "learning_rate": 0.02},
        "evaluation": {"bootstrap_samples": 100},
        "panel": [{"id": "one", "instruction": "Name a prime.", "input": ""}],
        "generation": {"max_new_tokens": 2},
    }
    path = folder / "rates.yaml"
    path.write_text(
        yaml.safe_dump(
            {"base": base, "vary": {"training.learning_rate": [0.02, 1e-5]}, "seeds": SEEDS}
        )
    )
    variants = study_variants(load_study(str(path)), origin=str(path))
    recipe = Recipe(variants, StoreBuilder())
    measured = recipe.evaluate(recipe.finetuned_models(), recipe.heldout_sets())
    return measured, read_report(recipe.report("rates").path)


pytestmark = pytest.mark.slow


def test_the_better_rate_is_found_with_the_noise_of_its_seeds(study):
    _, report = study
    [pair] = report.verdicts
    assert (pair.first, pair.second) == ("mine", "mine+training.learning_rate=1e-05")
    assert pair.verdict == "better" and pair.high < 0 and pair.corrected_p < 0.05
    assert pair.seed_noise in {"own", "pooled"}
    best, other = report.ranking
    configuration = report.configuration(best.configuration)
    assert len(configuration.models) == configuration.cost.trainings == SEEDS
    assert len(set(configuration.seeds)) == SEEDS and other.configuration == pair.second
    figures = [report.score(name, "rows").value for name in configuration.models]
    mean = np.mean(np.log(figures))
    assert best.value == pytest.approx(mean)
    assert best.probability_of_best > 0.99


def test_the_first_lines_say_which_is_better_by_how_much_and_how_sure(study):
    _, report = study
    first, seeds = verdict_sentences(report)
    assert first.startswith("On rows, mine is better than mine+training.learning_rate=1e-05: ")
    assert seeds == "The noise between seeds is in these intervals."
    for page in (render_markdown(report), render_html(report)):
        assert (
            "On rows, mine is better than mine/lr=1e-05" in page
            and "Which variant is better" in page
        )
    assert [row["Seeds"] for row in ranking_rows(report)] == ["6", "6"]
    assert [row["Verdict"] for row in verdict_rows(report)] == ["better"]


def test_scores_are_read_once_and_rows_of_the_same_ids_share_them(study):
    measured, _ = study
    reader = ScoreReader()
    first, second = (reader.rows(model.scores, ("rows",), "response") for model in measured[:2])
    assert first is reader.rows(measured[0].scores, ("rows",), "response")
    assert first.ids is second.ids and not np.array_equal(first.nats, second.nats)
    twice = reader.rows(measured[0].scores, ("rows", "rows"), "response")
    assert twice.ids is first.ids and np.array_equal(twice.nats, first.nats)


def test_two_groups_of_seeds_of_one_variant_are_not_distinguishable(study):
    measured, _ = study
    runs = []
    for model in measured[:SEEDS]:
        rows = ScoreReader().rows(model.scores, ("rows",), "response")
        seed = model.variant.training.seed
        runs.append(Run(f"group {seed % 2}", seed, rows.ids, rows.nats, rows.tokens))
    [pair] = compare(NoiseModel.of(PairedRows.of(runs)))
    assert pair.verdict == "not distinguishable"
    assert len({run.nats.sum() for run in runs}) == SEEDS  # the seeds are other trainings


def test_with_one_seed_the_report_says_that_seed_noise_is_missing(study):
    _, report = study
    [pair] = report.verdicts
    changed = dataclasses.replace(
        pair, verdict="not distinguishable", seed_noise="missing", corrected_high=0.1
    )
    first, seeds = verdict_sentences(report.model_copy(update={"verdicts": [changed]}))
    assert "not distinguishable from it" in first and "would have found a difference of" in first
    assert re.search(r"lower by [\d.]+ % \[−[\d.]+, [\d.]+\]", first), first  # 0 is within
    assert "trained with one seed" in seeds and "not in these intervals" in seeds


def test_a_comparison_turned_round_is_the_same_comparison(study):
    [pair] = study[1].verdicts
    turned = pair.reversed()
    assert (turned.value, turned.low, turned.high) == (-pair.value, -pair.high, -pair.low)
    assert turned.verdict == "worse" and turned.reversed() == pair

"""Reports of studies with 3, 12 and 100 cells, of drawn likelihoods."""

import itertools
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from chatpipe.config.run_names import short_cell_name
from chatpipe.generation.replies import FILE as REPLIES
from chatpipe.report import Report, read_report, render_html, render_markdown
from chatpipe.report.build import build_report
from chatpipe.report.comparability import few_rows
from chatpipe.report.comparison_tables import ranking_rows
from chatpipe.report.first_lines import FURTHER, MOST, MOST_BEST, first_lines, further_lines
from chatpipe.report.html import NUMBER
from chatpipe.report.names import with_short_names
from chatpipe.report.task_scores import REPLY_MEASURES, task_scores
from chatpipe.report.verdict_text import (
    CHOICE,
    best_curve_sentences,
    curve_sentence,
    seed_sentences,
    verdict_sentences,
)
from chatpipe.statistics.selection import validation_mask
from chatpipe.store.store import store
from tests.support.measured import Tables
from tests.support.synthetic_study import ALL_ROWS, GRIDS, SETS, synthetic_study

CELLS = sorted(GRIDS)
MISSING = 2  # of the study with 12 cells


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Cells -> their report, and its directory."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPIPE_HOME", str(tmp_path_factory.mktemp("home")))
        for cells in CELLS:
            request = synthetic_study(cells, missing=MISSING if cells == 12 else 0)
            path = store().get_or_build(request).path
            made[cells] = read_report(path), path
    return made


@pytest.fixture
def report(request, reports) -> Report:
    return reports[request.param][0]


def of_cells(*cells: int):
    return pytest.mark.parametrize("report", cells, indirect=True)


@of_cells(*CELLS)
def test_seeds_are_grouped_and_what_varies_is_named(report):
    cells = len(report.variants)
    rates, shares, seeds = GRIDS[cells if cells in GRIDS else cells + MISSING]
    assert sum(c.cost.trainings for c in report.configurations) == cells
    assert len(report.configurations) == len(rates) * len(shares)
    varied = {"training.learning_rate"} | ({"data_share"} if len(shares) > 1 else set())
    assert all(set(c.settings) == varied for c in report.configurations)
    assert report.configurations[0].seeds == list(range(seeds))
    [first, *_] = ranking_rows(report)
    assert first["training.learning_rate"] == "0.0003" and varied <= set(first)


@of_cells(*CELLS)
def test_the_front_is_what_no_other_configuration_beats_in_cost_and_quality(report):
    for front in report.fronts:
        points = {
            item.configuration: (report.configuration(item.configuration).cost.wall_s, item.value)
            for item in report.ranking
            if item.heldout == front.heldout
        }
        expected = [
            name
            for name, (cost, value) in sorted(points.items(), key=lambda item: item[1])
            if not any(0.95 * c <= cost and v <= value for n, (c, v) in points.items() if n != name)
        ]
        assert front.cost == "wall_s" and front.configurations == expected
    assert [front.heldout for front in report.fronts] == list(SETS)


@of_cells(100)
def test_a_curve_finds_what_twice_the_rows_give(report):
    """0.05 nats were planted; the points lie on a line, so that one more doubling is told."""
    curves = [curve for curve in report.curves if curve.shape == "line"]
    assert len(report.curves) == 2 * 5 and len(curves) >= 6
    within = [c.per_doubling.low < -0.05 < c.per_doubling.high for c in curves]
    assert sum(within) >= 0.8 * len(within)
    for curve in curves:
        rows, values = zip(*((point.rows, point.value) for point in curve.points), strict=True)
        assert rows == (ALL_ROWS / 8, ALL_ROWS / 4, ALL_ROWS / 2, ALL_ROWS)
        slope, level = np.polyfit(np.log2(rows), values, 1)  # each share has as many seeds
        assert curve.per_doubling.value == pytest.approx(slope, abs=0.005)
        ahead = level + slope * math.log2(2 * ALL_ROWS)
        assert curve.at_double.value == pytest.approx(ahead, abs=0.02)
    assert "8,000 rows would give" in " ".join(verdict_sentences(report))
    best = {
        (name, next(r for r in report.ranking if r.heldout == name).configuration) for name in SETS
    }
    drawn = [curve for curve in curves if (curve.heldout, curve.configuration) in best]
    shown = [line for line in first_lines(report) if "twice the training rows" in line]
    assert drawn and shown == [*map(curve_sentence, drawn)]


@of_cells(100)
def test_many_sets_with_curves_leave_the_warnings_in_the_first_lines(report):
    """Four sets, one seed, few rows: the best variants and their curves must not push out that
    another seed may turn a verdict."""
    names = [*SETS, "third", "fourth"]
    [best, *_] = [item for item in report.ranking if item.heldout == SETS[0]]
    curve = replace(
        next(c for c in report.curves if c.shape == "line"), configuration=best.configuration
    )
    of_set = {
        key: [item for item in getattr(report, key) if item.heldout == SETS[0]]
        for key in ("ranking", "verdicts")
    }
    once = [replace(pair, seed_noise="missing") for pair in of_set["verdicts"]]
    report = report.model_copy(
        update={
            "ranking": [
                item.model_copy(update={"heldout": name})
                for name in names
                for item in of_set["ranking"]
            ],
            "verdicts": [replace(pair, heldout=n) for n in names for pair in once],
            "curves": [replace(curve, heldout=name) for name in names],
            "heldout": [each.model_copy(update={"rows": 12}) for each in report.heldout],
        }
    )
    lines = first_lines(report)
    warnings = [*seed_sentences(report), *few_rows(report)]
    assert len(lines) == MOST and len(warnings) == 2 and "another seed" in warnings[0]
    assert lines[MOST_BEST : MOST_BEST + 2] == warnings
    assert all("twice the training rows" in line for line in lines[MOST_BEST + 2 : -1])


@of_cells(12)
def test_a_ranking_in_bits_per_byte_names_them_once(report):
    bits = [item.model_copy(update={"unit": "bytes"}) for item in report.ranking]
    for row in ranking_rows(report.model_copy(update={"ranking": bits})):
        assert NUMBER.match(row["Bits per byte"]) and "byte" not in row["Bits per byte"]
    both = ranking_rows(report.model_copy(update={"ranking": [*report.ranking, bits[0]]}))
    figures = [row["Perplexity or bits per byte"] for row in both]
    assert " bits per byte" in figures[-1] and not any("byte" in text for text in figures[:-1])


@of_cells(12)
def test_two_sizes_are_no_proof_of_a_line(report):
    assert {curve.shape for curve in report.curves} == {"two points"}
    sentences = " ".join(verdict_sentences(report))
    assert "two sizes do not show whether they lie on a line" in sentences
    assert "would give" not in sentences


@of_cells(*CELLS)
def test_the_best_is_chosen_on_one_part_of_the_rows_and_reported_on_the_other(report):
    for chosen, name in zip(report.selections, SETS, strict=True):
        ids = np.array([f"{name}-{row:032x}" for row in range(120)])
        assert chosen.validation_rows == int(validation_mask(ids).sum())
        assert chosen.rows == 120 - chosen.validation_rows
        assert "learning_rate=0.0003" in chosen.chosen and "data_share" not in chosen.chosen
    assert verdict_sentences(report).count(CHOICE) == 1


@of_cells(12)
def test_a_missing_cell_is_named_with_its_reason(report):
    failed = [cell.name for cell in report.missing]
    assert len(failed) == MISSING
    first, *_ = verdict_sentences(report)
    assert first.startswith("2 of 13 models are missing in all figures: ")
    for text in (render_html(report), render_markdown(report).replace("\\", "")):
        assert "lower training.learning_rate" in text
        assert all(short_cell_name(name) in text for name in failed)


@of_cells(*CELLS)
def test_every_score_names_the_artifact_that_it_comes_from(report, reports):
    root = reports[3][1].parent.parent
    for model, data in itertools.product(report.models, SETS):
        assert (root / report.manifest(model.name, "score", data).path).is_file()
    for tuned in report.variants:
        assert (root / report.manifest(tuned.name, "fine-tune").path).is_file()


@of_cells(*CELLS)
def test_csv_and_parquet_have_all_figures_with_a_column_for_each_setting_that_varies(
    report, reports
):
    path = reports[CELLS[[3, 10, 100].index(len(report.variants))]][1]
    table = pq.read_table(path / "report.parquet").to_pandas()
    plain = pd.read_csv(path / "report.csv")
    assert list(plain.columns) == list(table.columns) and len(plain) == len(table)
    np.testing.assert_allclose(plain["value"], table["value"])
    for item in report.ranking:
        lines = table[(table["figure"] == "ranking") & (table["heldout"] == item.heldout)]
        [line] = lines[lines["configuration"] == item.configuration].to_dict("records")
        settings = report.configuration(item.configuration).settings
        assert line["value"] == item.value and settings.items() <= line.items()
    for cell in report.scores:
        lines = table[(table["figure"] == cell.metric) & (table["heldout"] == cell.heldout)]
        assert lines[lines["model"] == cell.model]["value"].tolist() == [cell.value]
    assert (table["figure"] == "wall_s").sum() == len(report.variants)
    assert (table["figure"] == "difference").sum() == len(report.verdicts)


@of_cells(*CELLS)
def test_the_page_begins_with_the_verdict_and_folds_what_is_long(report):
    page = render_html(report)
    first = with_short_names(verdict_sentences(report)[0], report)
    order = [first, 'id="verdicts"', 'id="transfer"', 'id="training"', 'id="cells"']
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert page.count('<details class="cell"') == 1 + len(report.configurations)
    many = len(report.variants) > 6
    assert ('<details class="fold">' in page) == many
    assert page.count('<svg class="chart small"') == len(report.curves) + (
        len(report.configurations) if len(report.variants) > 6 else 0
    )


@of_cells(*CELLS)
def test_every_figure_links_to_its_manifest(report, reports):
    page = render_html(report)
    root = reports[3][1].parent.parent
    links = set(re.findall(r'href="\.\./\.\./store/([^"]+)"', page))
    assert len(links) >= len(report.models) * len(SETS)
    assert all((root / link).is_file() for link in links)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(chart)


@of_cells(*CELLS)
def test_a_few_lines_come_first_and_the_others_are_folded(report):
    left = "This report is without 2 of 14 variants, which the same command trains next."
    report = report.model_copy(update={"unfinished": [left]})
    first, further = first_lines(report), further_lines(report)
    assert len(first) <= MOST and first[0] == left
    assert any(line.startswith("On sample-alpaca, ") for line in first)
    assert {*first, *further} >= {*verdict_sentences(report), *best_curve_sentences(report)}
    assert len({*first, *further}) == len([*first, *further])
    markdown, page = render_markdown(report), render_html(report)
    assert markdown.index("## Headline") < markdown.index(f"## {FURTHER}")
    assert f"<summary>{FURTHER}: {len(further)} more sentences</summary>" in page
    assert "+training.learning_rate=" not in re.sub(r"<a href=[^>]*>", "", page)


@of_cells(12)
def test_the_rows_of_every_share_of_the_data_have_an_account(report):
    names = {account.name for account in report.accounts}
    assert {f"{' + '.join(SETS)} (hash{share})" for share in ("", ", 50 %")} <= names


@pytest.mark.usefixtures("chatpipe_home")
def test_the_same_training_under_two_names_is_one_run_of_its_configuration():
    request = synthetic_study(3)
    expected = build_report(request)
    twice = request.models[-1]
    variant = twice.variant.model_copy(update={"name": "x"})
    twin = twice.model_copy(update={"name": "x", "variant": variant})
    report = build_report(request.model_copy(update={"models": (*request.models, twin)}))
    assert len(report.models) == len(expected.models) + 1
    assert [pair.value for pair in report.verdicts] == [pair.value for pair in expected.verdicts]
    assert [item.value for item in report.ranking] == [item.value for item in expected.ranking]
    assert {each.cost.trainings for each in report.configurations} == {1}


@pytest.mark.usefixtures("chatpipe_home")
def test_shares_of_items_that_are_all_alike_have_wilsons_interval():
    base, tuned, *_ = synthetic_study(3).models
    columns = {
        "id": [f"{row}" for row in range(20)],
        **{measure: [0.0] * 20 for measure in REPLY_MEASURES},
    }
    replies = {"mine": Tables(tables={REPLIES: columns}, details={"left_out": {}})}
    answered = {name: store().get_or_build(request) for name, request in replies.items()}
    models = [model.model_copy(update={"replies": answered}) for model in (base, tuned)]
    scores, _ = task_scores(models)
    intervals = {score.metric: (score.low, score.high) for score in scores}
    assert intervals["exact_match"] == pytest.approx((0, 0.1611), abs=1e-4)
    assert intervals["rouge_l"] == (0, 0)  # no share of items

"""Verdicts: how often they are wrong, how much they see, and Holm's correction."""

import dataclasses
import time

import numpy as np
import pytest
from scipy import stats

from chatpipe.statistics import (
    NoiseModel,
    PairedRows,
    all_pairs,
    compare,
    fit_learning_curve,
    rank,
    select_best,
)
from chatpipe.statistics.verdicts import holm
from tests.statistics.simulated import SEED_SD, simulated_runs


def noise_of(generator, values, **options):
    return NoiseModel.of(PairedRows.of(simulated_runs(generator, values, **options)))


def shares_called_different(gap, studies=200):
    """The share of studies of four configurations in which the first two are called different, if
    only they are asked about, and in which any two are."""
    generator = np.random.default_rng(0)
    values = {"a": 0.0, "b": gap * SEED_SD, "c": 0.0, "d": 0.0}
    called = np.zeros(2)
    for _ in range(studies):
        noise = noise_of(generator, values)
        for place, pairs in enumerate(([("a", "b")], None)):
            verdicts = {pair.verdict for pair in compare(noise, pairs)}
            called[place] += verdicts != {"not distinguishable"}
    return called / studies


def test_at_most_7_percent_of_studies_without_a_difference_call_one():
    assert max(shares_called_different(0)) <= 0.07


def test_a_gap_of_2_seed_standard_deviations_is_seen_in_80_percent_with_5_seeds():
    assert shares_called_different(2)[0] >= 0.8


def test_holms_correction_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).uniform(0, 0.05, 12)
    corrected, _ = holm(p, 0.05)
    assert corrected == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_the_corrected_interval_contains_0_exactly_where_nothing_is_distinguished():
    generator = np.random.default_rng(5)
    verdicts = set()
    for _ in range(20):
        values = {name: generator.normal(0, 0.02) for name in "abcde"}
        for pair in compare(noise_of(generator, values, seeds=3)):
            contains = pair.corrected_low <= 0 <= pair.corrected_high
            assert contains == (pair.verdict == "not distinguishable")
            assert pair.corrected_low <= pair.low and pair.high <= pair.corrected_high
            verdicts.add(pair.verdict)
    assert verdicts == {"better", "worse", "not distinguishable"}


def test_the_smallest_difference_that_could_be_seen_is_that_of_a_power_analysis():
    power = pytest.importorskip("statsmodels.stats.power")
    noise = noise_of(np.random.default_rng(0), {"a": 0.0, "b": 0.0}, seeds=6, rows=400)
    [pair] = compare(noise)
    sd = np.sqrt(noise.seed_variance[0] * 6)
    expected = sd * power.TTestIndPower().solve_power(nobs1=6, alpha=0.05, power=0.8)
    assert pair.detectable == pytest.approx(expected, rel=0.1)


def test_the_probability_of_being_best_is_that_of_students_t():
    noise = noise_of(np.random.default_rng(4), {"a": 0.0, "b": 0.01}, seeds=4)
    best, other = rank(noise)
    contrast = noise.contrasts(np.array([[1.0, -1.0]]))
    expected = stats.t.sf(contrast.values[0] / contrast.errors[0], contrast.df[0])
    probability = {item.configuration: item.probability_of_best for item in (best, other)}
    assert best.value < other.value
    assert probability["a"] == pytest.approx(expected, abs=0.02)
    assert sum(probability.values()) == pytest.approx(1)


def test_a_hundred_cells_are_compared_in_two_seconds():
    values = {f"cell-{place}": 0.001 * place for place in range(100)}
    runs = simulated_runs(np.random.default_rng(0), values, seeds=1, rows=2000)
    started = time.process_time()
    noise = NoiseModel.of(PairedRows.of(runs))
    compare(noise, [("cell-0", name) for name in noise.configurations[1:]])
    rank(noise)
    assert time.process_time() - started < 2
    assert len(all_pairs(noise)) == 4950


def curve(values, **options):
    """A learning curve over 100, 200, … rows with these figures."""
    names = {f"share-{place}": value for place, value in enumerate(values)}
    noise = noise_of(np.random.default_rng(0), names, **options)
    return noise, fit_learning_curve(noise, {n: 100 * 2**i for i, n in enumerate(names)})


def test_a_learning_curve_is_the_line_of_least_squares():
    noise, fitted = curve([3.0, 2.9, 2.8, 2.7], seed_sd=0.002)
    line = stats.linregress(np.log2([100, 200, 400, 800]), noise.values)
    change = fitted.per_doubling
    assert noise.pooled and fitted.shape == "line"
    assert change.value == pytest.approx(line.slope)
    assert change.low < -0.1 < change.high
    assert fitted.at_double.value == pytest.approx(line.intercept + line.slope * np.log2(1600))
    assert fitted.at_double.high - fitted.at_double.low > change.high - change.low


def test_a_learning_curve_that_bends_says_nothing_about_more_data():
    _, fitted = curve([3.0, 2.7, 2.6, 2.6], seed_sd=0.002)
    assert (fitted.shape, fitted.at_double) == ("not a line", None)


def test_two_sizes_are_no_proof_of_a_line():
    _, fitted = curve([3.0, 2.9])
    assert fitted.shape == "two points"
    with pytest.raises(ValueError, match="needs two sizes"):
        curve([3.0])


def test_the_figure_of_the_chosen_one_is_not_that_of_the_luckiest():
    generator = np.random.default_rng(0)
    chosen_on, reported = [], []
    for _ in range(60):
        values = {f"cell-{place}": 0.0 for place in range(20)}
        rows = PairedRows.of(
            simulated_runs(generator, values, seeds=1, seed_sd=0.0, row_effect=0.5)
        )
        selection = select_best(rows)
        all_rows = NoiseModel.of(rows)
        assert selection.validation_rows + selection.rows == len(rows)
        mean = all_rows.values.mean()
        chosen_on.append(all_rows.values.min() - mean)
        reported.append(np.mean([pair.value for pair in selection.comparisons]))
    error = np.std(reported) / np.sqrt(len(reported))
    assert np.mean(chosen_on) < -0.05  # the lowest of all figures: luck
    assert abs(np.mean(reported)) < 3 * error


def test_configurations_with_the_same_figures_share_the_probability_of_being_best():
    runs = simulated_runs(np.random.default_rng(2), {"a": 0.0, "b": 1.0}, seeds=1)
    same = [dataclasses.replace(runs[0], configuration=name) for name in ("c", "d")]
    ranking = rank(NoiseModel.of(PairedRows.of([*runs, *same])))
    assert [item.probability_of_best for item in ranking] == pytest.approx([1 / 3] * 3 + [0])

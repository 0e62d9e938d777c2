"""The variance of a difference: against scipy where only seeds vary, and against a mixed model."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from chatpipe.statistics import NoiseModel, PairedRows, Run, compare
from tests.statistics.simulated import simulated_runs


def without_row_noise(figures):
    """Runs whose nats per token are the same in every row."""
    tokens = np.array([3.0, 10.0, 7.0])
    ids = np.array(["a", "b", "c"])
    return [
        Run(name, seed, ids, value * tokens, tokens)
        for name, values in figures.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    "figures",
    [
        {"a": [1.0, 1.1, 1.3, 1.0], "b": [1.4, 1.2, 1.5, 1.6]},
        {"a": [1.0, 1.1, 1.3], "b": [1.4, 1.2, 1.5, 1.6, 1.7]},
    ],
)
def test_seeds_of_two_configurations_alone_are_compared_by_students_t(figures):
    noise = NoiseModel.of(PairedRows.of(without_row_noise(figures)))
    [pair] = compare(noise)
    expected = stats.ttest_ind(figures["a"], figures["b"])
    assert (noise.pooled, pair.seed_noise) == (True, "pooled")
    assert pair.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (pair.low, pair.high) == pytest.approx(expected.confidence_interval(), rel=1e-6)


def test_where_seeds_move_one_configuration_more_each_has_its_own_variance():
    figures = {"a": [1.0, 1.001, 0.999], "b": [1.4, 1.0, 1.9, 0.8]}
    noise = NoiseModel.of(PairedRows.of(without_row_noise(figures)))
    [pair] = compare(noise)
    expected = stats.ttest_ind(figures["a"], figures["b"], equal_var=False)
    assert (noise.pooled, pair.seed_noise) == (False, "own")
    assert pair.p == pytest.approx(expected.pvalue, rel=1e-6)


def test_the_choice_of_variances_is_bartletts_test_at_25_percent():
    generator = np.random.default_rng(0)
    for _ in range(200):
        spread = generator.uniform(0.5, 2, 3)
        figures = {name: generator.normal(1, sd, 4) for name, sd in zip("abc", spread, strict=True)}
        p = stats.bartlett(*figures.values()).pvalue
        if abs(p - 0.25) > 0.01:
            noise = NoiseModel.of(PairedRows.of(without_row_noise(figures)))
            assert noise.pooled == (p > 0.25)


def test_the_error_of_a_difference_is_that_of_a_mixed_model():
    statsmodels = pytest.importorskip("statsmodels.formula.api")
    generator = np.random.default_rng(3)
    seeds, rows = 4, 12
    nats = (
        generator.normal(5, 1, (1, 1, rows))
        + generator.normal(0, 0.6, (2, 1, rows))
        + generator.normal(0, 0.6, (2, seeds, 1))
        + generator.normal(0, 0.6, (2, seeds, rows))
    )
    ids = np.array([f"row{place}" for place in range(rows)])
    runs = [
        Run(name, seed, ids, nats[place, seed], np.ones(rows))
        for place, name in enumerate("ab")
        for seed in range(seeds)
    ]
    noise = NoiseModel.of(PairedRows.of(runs))
    contrast = noise.contrasts(np.array([[-1.0, 1.0]]))
    table = pd.DataFrame(
        [
            (run.configuration, f"{run.configuration}{run.seed}", row, nats)
            for run in runs
            for row, nats in zip(run.ids, run.nats, strict=True)
        ],
        columns=["configuration", "run", "row", "nats"],
    )
    table["row_of"] = table["configuration"] + table["row"]
    parts = {name: f"0 + C({name})" for name in ("row", "row_of", "run")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = statsmodels.mixedlm(
            "nats ~ configuration", table, groups=np.ones(len(table)), vc_formula=parts
        )
        fitted = model.fit(reml=True)
    assert contrast.values[0] == pytest.approx(fitted.fe_params.iloc[1], rel=1e-6)
    assert contrast.errors[0] == pytest.approx(fitted.bse_fe.iloc[1], rel=0.01)


def test_with_one_seed_the_interval_is_that_of_rows_and_says_so():
    generator = np.random.default_rng(0)
    runs = simulated_runs(generator, {"a": 0.0, "b": 0.02}, seeds=1, rows=300)
    noise = NoiseModel.of(PairedRows.of(runs))
    [pair] = compare(noise)
    first, second = runs
    drawn = generator.integers(0, 300, (4000, 300))
    differences = (first.nats - second.nats)[drawn].sum(-1) / first.tokens[drawn].sum(-1)
    assert pair.seed_noise == "missing" and not noise.seed_noise_is_known
    assert (pair.low, pair.high) == pytest.approx(
        np.quantile(differences, [0.025, 0.975]), abs=5e-4
    )


def test_a_base_has_no_seed_noise_and_its_pairs_have_that_of_the_other_side():
    generator = np.random.default_rng(1)
    base, *runs = simulated_runs(generator, {"base": 1.0, "a": 0.0, "b": 0.0}, seeds=3)[2:]
    runs = [Run("base", None, base.ids, base.nats, base.tokens), *runs]
    noise = NoiseModel.of(PairedRows.of(runs))
    assert noise.seed_variance[0] == 0 and noise.seed_variance[1] > 0
    [pair] = compare(noise, [("a", "base")])
    assert (pair.verdict, pair.seed_noise) == ("better", "own")


def test_bits_per_byte_are_the_same_nats_over_other_units():
    runs = simulated_runs(np.random.default_rng(2), {"a": 0.0, "b": 0.1})
    tokens = NoiseModel.of(PairedRows.of(runs))
    row_bytes = dict(zip(runs[0].ids, runs[0].tokens * 4, strict=True))
    bits = NoiseModel.of(PairedRows.of(runs, row_bytes))
    assert bits.values == pytest.approx(tokens.values / 4 / np.log(2))
    assert bits.row_covariance == pytest.approx(tokens.row_covariance / (4 * np.log(2)) ** 2)


def test_one_row_gives_a_value_without_an_interval():
    tokens = np.array([5.0])
    runs = [Run(name, 0, np.array(["a"]), tokens * x, tokens) for name, x in (("a", 1), ("b", 2))]
    [pair] = compare(NoiseModel.of(PairedRows.of(runs)))
    assert (pair.value, pair.low, pair.high) == (-1.0, None, None)
    assert (pair.verdict, pair.detectable) == ("not distinguishable", None)


def test_rows_are_paired_by_id_and_those_that_a_run_lacks_are_counted():
    tokens = np.array([1.0, 2.0, 3.0])
    first = Run("a", 0, np.array(["x", "y", "z"]), np.array([1.0, 4.0, 9.0]), tokens)
    second = Run("b", 0, np.array(["z", "w", "x"]), np.array([6.0, 1.0, 1.0]), tokens[[2, 1, 0]])
    rows = PairedRows.of([first, second])
    assert (list(rows.ids), rows.left_out) == (["x", "z"], 2)
    assert rows.nats.tolist() == [[1.0, 9.0], [1.0, 6.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 0}, r"a \(seed 0\) is there more than once"),
        ({"seed": None}, "a: some runs have a seed and some have none"),
        ({"ids": np.array(["p", "q"])}, "no held-out row in common"),
        ({"ids": np.array(["x", "x"])}, "a row id is there twice"),
        ({"tokens": np.array([1.0, 5.0])}, "1 of 2 rows have another number of scored tokens"),
    ],
)
def test_runs_that_do_not_compare_are_refused(change, message):
    fields = {"ids": np.array(["x", "y"]), "nats": np.ones(2), "tokens": np.array([1.0, 2.0])}
    first = Run("a", 0, **fields)
    second = Run("a", **{"seed": 1, **fields, **change})
    with pytest.raises(ValueError, match=message):
        PairedRows.of([first, second])

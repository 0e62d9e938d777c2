"""Strengths agree with choix, and their intervals hold what was planted."""

import itertools

import choix
import numpy as np
import pytest
from statsmodels.stats import proportion

from chatpipe.statistics import Outcome, fit_strengths, strengths, win_rates

STRENGTHS = np.array([0.9, 0.2, -0.3, -0.8])
TIES = 0.3  # of the smaller share of a pair
PAIRS = list(itertools.combinations(range(len(STRENGTHS)), 2))


def drawn(generator, prompts):
    """Comparisons of all pairs on every prompt; a tie takes as much from wins as from losses."""
    outcomes = []
    for prompt in range(prompts):
        for first, second in PAIRS:
            p = 1 / (1 + np.exp(STRENGTHS[second] - STRENGTHS[first]))
            tie = TIES * min(p, 1 - p)
            share = generator.choice([1.0, 0.5, 0.0], p=[p - tie / 2, tie, 1 - p - tie / 2])
            outcomes.append(Outcome(first, second, float(share), prompt))
    return outcomes


@pytest.mark.parametrize("seed", range(5))
def test_strengths_are_those_of_choix_with_a_tie_as_half_a_win(seed):
    outcomes = drawn(np.random.default_rng(seed), 30)
    pairs = []  # choix takes whole wins: two for a win, one to each side for a tie
    wins = np.zeros((4, 4))
    for first, second, share, _ in outcomes:
        pairs += [(first, second)] * round(2 * share) + [(second, first)] * round(2 - 2 * share)
        wins[first, second] += share
        wins[second, first] += 1 - share
    expected = choix.opt_pairwise(4, pairs)
    assert strengths(wins, prior=0) == pytest.approx(expected - expected.mean(), abs=1e-4)
    dense = choix.ilsr_pairwise_dense(wins + 0.5 / 3 * (1 - np.eye(4)))
    assert strengths(wins) == pytest.approx(dense - dense.mean(), abs=1e-5)


def test_planted_strengths_and_win_rates_are_inside_their_intervals():
    generator = np.random.default_rng(20)
    probability = 1 / (1 + np.exp(STRENGTHS[None, :] - STRENGTHS[:, None]))
    rates = (probability.sum(1) - 0.5) / 3
    inside = {"strength": 0, "rate": 0}
    for simulation in range(200):
        outcomes = drawn(generator, 25)
        fitted = fit_strengths(outcomes, 4, resamples=200, seed=simulation)
        shares = win_rates(outcomes, 4, resamples=200, seed=simulation)
        for name, estimates, planted in (("strength", fitted, STRENGTHS), ("rate", shares, rates)):
            inside[name] += ((estimates.low <= planted) & (planted <= estimates.high)).sum()
    shares_inside = {name: count / 800 for name, count in inside.items()}
    print(shares_inside)
    assert all(0.93 <= share <= 0.985 for share in shares_inside.values()), shares_inside


def test_two_models_have_the_closed_form_and_a_model_that_never_loses_a_finite_strength():
    wins = np.array([[0.0, 9.0], [3.0, 0.0]])
    first, second = strengths(wins, prior=0)
    assert first - second == pytest.approx(np.log(3))
    always = np.array([[0.0, 7.0], [0.0, 0.0]])
    first, second = strengths(always)
    assert first - second == pytest.approx(np.log(7.5 / 0.5))
    with pytest.raises(ValueError, match="no wins, or no losses"):
        strengths(always, prior=0)


def test_one_prompt_has_no_interval_and_a_model_without_comparisons_no_rate():
    rates = win_rates([Outcome(0, 1, 1.0, 7)] * 3, models=3)
    assert rates.values[:2] == pytest.approx([1, 0]) and np.isnan(rates.values[2])
    assert np.isnan(rates.low).all()
    assert np.isfinite(fit_strengths([], models=2).values).all()


def test_a_model_of_one_prompt_has_no_interval_and_one_of_few_no_narrower_one_than_wilsons():
    first = [Outcome(0, 1, share, 0) for share in (1.0, 0.0, 0.5)]  # the first model: one prompt
    others = [Outcome(1, 2, share, prompt) for prompt, share in ((1, 1.0), (2, 0.5), (3, 0.5))]
    rates = win_rates([*first, *others], models=3)
    strengths_of = fit_strengths([*first, *others], models=3)
    assert rates.values[0] == 0.5 and np.isnan([rates.low[0], rates.high[0]]).all()
    assert np.isnan(strengths_of.low[0]) and np.isfinite(strengths_of.low[1:]).all()
    for model, prompts in ((1, 4), (2, 3)):
        low, high = proportion.proportion_confint(
            rates.values[model] * prompts, prompts, method="wilson"
        )
        assert rates.low[model] <= low + 1e-9 and rates.high[model] >= high - 1e-9


def test_a_model_that_fares_the_same_on_every_prompt_has_wilsons_interval_of_its_prompts():
    never = [Outcome(0, 1, 0.0, prompt) for prompt in range(5) for _ in range(1 + prompt % 2)]
    rates = win_rates([*never, Outcome(2, 3, 1.0, 0), Outcome(2, 3, 0.0, 1)], models=5)
    low, high = proportion.proportion_confint(0, 5, method="wilson")
    assert (rates.low[0], rates.high[0]) == pytest.approx((low, high))
    assert (rates.low[1], rates.high[1]) == pytest.approx((1 - high, 1 - low))
    assert rates.low[2] < 0.5 < rates.high[2] and np.isnan(rates.low[4])
    fitted = fit_strengths(never, models=2)
    assert np.isfinite(fitted.values).all() and np.isnan([*fitted.low, *fitted.high]).all()
    ties = win_rates([Outcome(0, 1, 0.5, prompt) for prompt in range(9)], models=2)
    assert (ties.high - ties.low > 0.5).all()
    nobody = win_rates([], models=2)
    assert np.isnan(nobody.low).all()

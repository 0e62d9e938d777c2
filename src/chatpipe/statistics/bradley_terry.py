"""Strengths of models from comparisons in pairs, with intervals over the prompts that were asked.

Bradley and Terry 1952: model i is preferred to j with probability π_i / (π_i + π_j). A tie is half
a win for each side, so that strengths give the expected share of wins and half the ties (Davidson
1970 has another model of ties, with a parameter of its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatpipe.statistics.shares import wilson
from chatpipe.statistics.student_t import quantile

Floats = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 500
# Wins and losses that are added to every model's, spread over all opponents. They keep a strength
# finite where a model has won or lost everything; for two models this is Jeffreys' prior (Firth
# 1993), so that w of n wins are (w + 1/2) / (n + 1).
PRIOR = 0.5
WILSON_BELOW = 5  # prompts of a model; the interval of fewer contains Wilson's
_TOLERANCE = 1e-9
_MAX_STEPS = 10_000


class Outcome(NamedTuple):
    """A comparison: places of two models, the first one's share of the win, the prompt's place."""

    first: int
    second: int
    share: float  # 1: the first is better; 0.5: tie; 0: the second is better
    prompt: int


@dataclass(frozen=True)
class Estimates:
    """Figures of every model, with 95 % intervals: arrays (models,). Where prompts are too few for
    an interval, or all alike for one of a strength, its bounds are nan."""

    values: Floats
    low: Floats
    high: Floats


def strengths(wins: Floats, prior: float = PRIOR) -> Floats:
    """Return the logarithms of the strengths, whose mean is zero.

    The MM algorithm of Hunter 2004 (equation 3) on wins with their priors. Without a prior, this is
    the maximum likelihood, which exists only where every model can be reached from every other one
    along wins (Ford 1957).

    Args:
        wins: (models, models) or (samples, models, models); how often the row's model beat the
            column's.
        prior: Wins and losses that are added to every model's.

    Raises:
        ValueError: Without a prior, the maximum likelihood does not exist.
    """
    models = wins.shape[-1]
    spread = prior / max(1, models - 1) * (1 - np.eye(models))
    wins = np.asarray(wins, np.float64) + spread
    if prior <= 0 and not _all_connected(wins):
        raise ValueError("a model has no wins, or no losses, against the others")
    games = wins + np.swapaxes(wins, -1, -2)
    total = wins.sum(-1)
    power = np.ones(total.shape)
    for _ in range(_MAX_STEPS):
        pairs = power[..., :, None] + power[..., None, :]
        updated = total / (games / pairs).sum(-1)
        updated /= np.exp(np.log(updated).mean(-1, keepdims=True))
        change = np.abs(np.log(updated / power)).max(initial=0.0)
        power = updated
        if change < _TOLERANCE:
            break
    return np.log(power)


def fit_strengths(
    outcomes: Sequence[Outcome], models: int, resamples: int = RESAMPLES, seed: int = 0
) -> Estimates:
    """Return the strengths as logarithms with mean zero, and their intervals over prompts.

    A model that fares the same on every prompt, such as one that always wins, has no interval: its
    resamples differ by the prior and by the other models only.
    """
    wins = _wins_by_prompt(outcomes, models)
    estimate = strengths(wins.sum(0))
    draws = strengths(_resampled(wins, resamples, seed))
    fitted = _with_interval(estimate, draws, _is_compared(wins).sum(0))
    fitted.low[_is_alike(wins)] = fitted.high[_is_alike(wins)] = np.nan
    return fitted


def win_rates(
    outcomes: Sequence[Outcome], models: int, resamples: int = RESAMPLES, seed: int = 0
) -> Estimates:
    """Return each model's share of wins and half its ties, and the intervals over prompts; nan for
    a model without comparisons.

    A model that was compared on one prompt has no interval. That of few prompts contains Wilson's,
    of as many items as the model has prompts: a model that never wins does so in every resample,
    which would be an interval without a width, and that of three prompts differs little by chance.
    Ratings of one prompt's answers are alike, so that counting ratings would make it too narrow.
    The interval of a share is at least as wide as that of a mean with ties.
    """
    wins = _wins_by_prompt(outcomes, models)
    draws = _rates(_resampled(wins, resamples, seed))
    prompts = _is_compared(wins).sum(0)
    rates = _with_interval(_rates(wins.sum(0)), draws, prompts)
    low, high = np.maximum(rates.low, 0.0), np.minimum(rates.high, 1.0)
    for model in np.flatnonzero(((prompts < WILSON_BELOW) | _is_alike(wins)) & (prompts > 1)):
        least, most = wilson(float(rates.values[model]), int(prompts[model]))
        low[model], high[model] = min(low[model], least), max(high[model], most)
    return Estimates(rates.values, low, high)


def _is_compared(wins: Floats) -> NDArray[np.bool_]:
    """(prompts, models): whether the model was compared on that prompt."""
    return np.asarray((wins + np.swapaxes(wins, -1, -2)).sum(-1) > 0)


def _is_alike(wins: Floats) -> NDArray[np.bool_]:
    """(models,): whether the model has the same win rate on every prompt."""
    rates = _rates(wins)
    differs = np.where(np.isnan(rates), 0, rates - _rates(wins.sum(0)))
    return np.asarray(np.abs(differs).max(0, initial=0.0) < _TOLERANCE)


def _wins_by_prompt(outcomes: Sequence[Outcome], models: int) -> Floats:
    """(prompts with an outcome, models, models): wins of the row's model over the column's."""
    prompts = {prompt: place for place, prompt in enumerate(sorted({o.prompt for o in outcomes}))}
    wins = np.zeros((len(prompts), models, models))
    for first, second, share, prompt in outcomes:
        wins[prompts[prompt], first, second] += share
        wins[prompts[prompt], second, first] += 1 - share
    return wins


def _resampled(wins: Floats, resamples: int, seed: int) -> Floats:
    """(resamples, models, models): sums of wins over prompts that are drawn with replacement."""
    prompts = len(wins)
    if not prompts:
        return np.zeros((resamples, *wins.shape[1:]))
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    return np.asarray(np.einsum("sp,pij->sij", counts, wins))


def _rates(wins: Floats) -> Floats:
    games = (wins + np.swapaxes(wins, -1, -2)).sum(-1)
    rates = np.full(games.shape, np.nan)
    np.divide(wins.sum(-1), games, out=rates, where=games > 0)
    return rates


def _with_interval(estimate: Floats, draws: Floats, prompts: NDArray[np.int64]) -> Estimates:
    """Return the estimate ± Student's t (prompts − 1) times its error over resampled prompts.

    The quantiles of the resamples themselves are too narrow with few prompts (Hesterberg 2015,
    section 3.1).

    Args:
        prompts: (models,) On how many each was compared; with fewer than two, there is no interval.
    """
    present = ~np.isnan(draws)
    n = np.maximum(1, present.sum(0))
    mean = np.where(present, draws, 0).sum(0) / n
    variance = np.where(present, (draws - mean) ** 2, 0).sum(0) / n
    freedom = np.maximum(prompts - 1, 1)
    error = np.sqrt(variance * (freedom + 1) / freedom)
    margin = quantile((1 + LEVEL) / 2, freedom) * error
    margin = np.where(prompts > 1, margin, np.nan)
    return Estimates(estimate, estimate - margin, estimate + margin)


def _all_connected(wins: Floats) -> bool:
    """Whether wins lead from every model to every other one, in each sample."""
    models = wins.shape[-1]
    reached = (wins > 0) | np.eye(models, dtype=bool)
    for _ in range(max(1, models.bit_length())):
        reached = np.matmul(reached.astype(np.int64), reached.astype(np.int64)) > 0
    return bool(reached.all())

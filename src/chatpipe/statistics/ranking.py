"""Configurations in order, each with its probability of being the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatpipe.statistics.noise import NoiseModel
from chatpipe.statistics.paired_rows import Floats

DRAWS = 10_000
SAME_FIGURE = 1e-9  # configurations whose trainings were the same share a win


@dataclass(frozen=True)
class RankedConfiguration:
    """A configuration, its mean over seeds, and the share of the draws in which it is best."""

    configuration: str
    value: float
    probability_of_best: float


def rank(noise: NoiseModel, draws: int = DRAWS, seed: int = 0) -> list[RankedConfiguration]:
    """Return the configurations, the best one first.

    The probability of being best is that of the true figures given the measured ones, with flat
    priors: normal for the rows' part, whose covariance is that of the same rows for all, and
    Student's t for the seeds' part (Box and Tiao 1973, section 2.7). Without seed noise it is too
    sure.
    """
    generator = np.random.default_rng(seed)
    count = len(noise.configurations)
    drawn = noise.values + _row_part(noise, draws, generator)
    scale = generator.chisquare(noise.seed_df, (draws, count)) / noise.seed_df
    if noise.pooled:
        scale = np.broadcast_to(scale[:, :1], scale.shape)  # one variance for all
    spread = np.sqrt(noise.seed_variance / scale)
    drawn = drawn + spread * generator.standard_normal((draws, count))
    is_best = drawn <= drawn.min(-1, keepdims=True) + SAME_FIGURE
    wins = (is_best / is_best.sum(-1, keepdims=True)).mean(0)
    return [
        RankedConfiguration(
            noise.configurations[place], float(noise.values[place]), float(wins[place])
        )
        for place in np.argsort(noise.values, kind="stable")
    ]


def _row_part(noise: NoiseModel, draws: int, generator: np.random.Generator) -> Floats:
    """Errors (draws, configurations) that rows cause, without those that seeds cause."""
    if noise.rows < 2:
        return np.zeros((draws, len(noise.configurations)))
    covariance = noise.row_covariance - np.diag(noise.interaction)
    sizes, directions = np.linalg.eigh(covariance)
    root = directions * np.sqrt(np.maximum(sizes, 0.0))
    return np.asarray(generator.standard_normal((draws, len(sizes))) @ root.T)

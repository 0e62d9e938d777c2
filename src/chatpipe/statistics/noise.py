"""The noise of a difference between configurations: that of rows, and that of seeds.

A row's nats under a run are modelled with crossed random effects,

    nats = configuration + row + configuration x row + seed within configuration + residual,

so a difference of two configurations varies with the rows that happened to be held out (paired by
row, so that hard rows cancel) and with the seeds that happened to be trained. The variances are
estimated by the method of moments, as in two-way clustered standard errors (Cameron, Gelbach and
Miller 2011, "Robust Inference with Multiway Clustering": rows + runs − their intersection). Degrees
of freedom are Satterthwaite's (1946).

Few seeds say little about the variance between seeds. So it is pooled over the configurations,
unless Bartlett's test (1937) says at 25 % that they differ; then each has its own, as in Welch's
test. That rule, and not a hierarchical bootstrap, was chosen by simulation
(benchmarks/verdicts.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatpipe.statistics import student_t
from chatpipe.statistics.paired_rows import Floats, PairedRows

# The 75th percentile of the normal distribution: variances are pooled unless Bartlett's p < 0.25.
_BARTLETT_Z = 0.6744897501960817


@dataclass(frozen=True)
class Contrasts:
    """Sums of configurations' figures with weights; each array (contrasts,).

    Attributes:
        values: The sums.
        errors: Their standard errors; nan where nothing can be said (one row).
        df: Degrees of freedom of the errors.
    """

    values: Floats
    errors: Floats
    df: Floats

    def half_width(self, level: Floats | float) -> Floats:
        """Return half the width of the interval of that level, like 0.95."""
        return student_t.quantile((1 + np.asarray(level)) / 2, self.df) * self.errors

    def p_values(self) -> Floats:
        """Return the two-sided p of a value of 0; 1 where value and error are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.values == 0, 0.0, self.values / self.errors)
        return np.where(np.isnan(self.errors), 1.0, student_t.two_sided_p(t, self.df))


@dataclass(frozen=True)
class NoiseModel:
    """Every configuration's figure on one held-out set, and how much rows and seeds change it.

    Attributes:
        configurations: Their names.
        values: (configurations,) The mean over seeds of log-perplexity (nats per token) or of bits
            per byte; lower is better.
        runs: (configurations,) How many trainings each has.
        seeded: (configurations,) Whether a training's seed can change it.
        rows: How many rows the figures are of.
        row_covariance: (configurations, configurations) Of the values, over rows.
        interaction: (configurations,) The part of its diagonal that seeds cause: row x seed.
        seed_variance: (configurations,) Of the values, over seeds; 0 where it is not known.
        seed_df: (configurations,) Degrees of freedom of `seed_variance`.
        pooled: Whether `seed_variance` is one estimate for all configurations.
    """

    configurations: tuple[str, ...]
    values: Floats
    runs: NDArray[np.int64]
    seeded: NDArray[np.bool_]
    rows: int
    row_covariance: Floats
    interaction: Floats
    seed_variance: Floats
    seed_df: Floats
    pooled: bool

    @classmethod
    def of(cls, rows: PairedRows) -> NoiseModel:
        """Estimate the noise of these runs."""
        scale = 1.0 if rows.unit == "tokens" else 1 / math.log(2)
        per_run = scale * rows.nats.sum(-1) / rows.units.sum()
        # What each row adds to the error of the ratio Σ nats / Σ units (Cochran 1977, section 6.3).
        influence = (scale * rows.nats - per_run[:, None] * rows.units) / rows.units.sum()
        count = len(rows.configurations)
        runs = np.bincount(rows.members, minlength=count).astype(np.int64)
        values = _sums(rows, per_run) / runs
        mean = np.zeros((count, len(rows)))
        np.add.at(mean, rows.members, influence)
        mean /= runs[:, None]
        correction = len(rows) / (len(rows) - 1) if len(rows) > 1 else np.nan
        squares = correction * ((influence - mean[rows.members]) ** 2).sum(-1)
        seed_squares = _sums(rows, (per_run - values[rows.members]) ** 2)
        freedom = np.where(rows.seeded, runs - 1, 0)
        interaction = _pool(_sums(rows, squares), freedom, own=True)
        pooled = not _variances_differ(seed_squares, freedom)
        variance = _pool(seed_squares, freedom, own=not pooled)
        own_df = np.where(freedom > 0, freedom, max(int(freedom.sum()), 1))
        return cls(
            configurations=rows.configurations,
            values=values,
            runs=runs,
            seeded=rows.seeded,
            rows=len(rows),
            row_covariance=correction * mean @ mean.T,
            interaction=np.where(rows.seeded, interaction / runs, 0.0),
            seed_variance=np.where(rows.seeded, variance / runs, 0.0),
            seed_df=np.full(count, max(freedom.sum(), 1)) if pooled else own_df,
            pooled=pooled,
        )

    @property
    def seed_noise_is_known(self) -> bool:
        """Whether some configuration was trained with more than one seed."""
        return bool(np.any(self.runs[self.seeded] > 1))

    def contrasts(self, weights: Floats) -> Contrasts:
        """Return Σ weight · value for each row of `weights`, (contrasts, configurations)."""
        squared = weights**2
        seed_parts = squared * self.seed_variance
        seed = seed_parts.sum(-1)
        row = np.einsum("mi,ij,mj->m", weights, self.row_covariance, weights)
        # What seeds do to single rows is in the variance between seeds already.
        only_rows = np.maximum(row - squared @ self.interaction, 0.0)
        variance = seed + only_rows
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = (
                seed**2 / self.seed_df[0] if self.pooled else seed_parts**2 @ (1 / self.seed_df)
            )
            spread = spread + np.where(only_rows > 0, row**2 / (self.rows - 1), 0.0)
            df = np.where(spread > 0, variance**2 / spread, max(self.rows - 1, 1))
        return Contrasts(weights @ self.values, np.sqrt(variance), np.maximum(df, 1.0))

    def intervals(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Return the low and high ends of every configuration's figure, each (configurations,)."""
        own = self.contrasts(np.eye(len(self.configurations)))
        half = own.half_width(level)
        return self.values - half, self.values + half


def _sums(rows: PairedRows, per_run: Floats) -> Floats:
    """Return each configuration's sum over its runs."""
    sums = np.bincount(rows.members, per_run, len(rows.configurations))
    return np.asarray(sums, np.float64)


def _pool(squares: Floats, freedom: NDArray[np.int64], own: bool) -> Floats:
    """Return variances from sums of squares: each its own where `own` and it has freedom, or that
    of all together; 0 where nothing has any."""
    total = int(freedom.sum())
    if not total:
        return np.zeros(len(squares))
    together = np.full(len(squares), squares[freedom > 0].sum() / total)
    if not own:
        return together
    return np.where(freedom > 0, squares / np.maximum(freedom, 1), together)


def _variances_differ(squares: Floats, freedom: NDArray[np.int64]) -> bool:
    """Whether Bartlett's test finds at 25 % that the variances are not the same."""
    known = freedom > 0
    freedom, squares = freedom[known], squares[known]
    count, total = len(freedom), int(freedom.sum())
    if count < 2 or not squares.any():
        return False
    if not squares.all():
        return True
    logs = freedom @ np.log(squares / freedom)
    correction = 1 + ((1 / freedom).sum() - 1 / total) / (3 * (count - 1))
    statistic = (total * math.log(squares.sum() / total) - logs) / correction
    return bool(statistic > _chi_square_quantile(count - 1))


def _chi_square_quantile(df: int) -> float:
    """The 75th percentile, by Wilson and Hilferty (1931); within 1 % for every df."""
    part = 2 / (9 * df)
    return float(df * (1 - part + _BARTLETT_Z * math.sqrt(part)) ** 3)

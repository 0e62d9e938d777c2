"""What more data gives: a line through the figures at several sizes of the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chatpipe.statistics.noise import Contrasts, NoiseModel
from chatpipe.statistics.paired_rows import Floats
from chatpipe.statistics.verdicts import holm

Shape = Literal["line", "two points", "not a line"]


@dataclass(frozen=True)
class Point:
    """The figure of a configuration that was trained on so many rows, and its 95 % interval."""

    configuration: str
    rows: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """By how much a figure changes, and the 95 % interval of that; negative is better."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """value = level + per_doubling · log2(rows).

    Attributes:
        points: In the order of their rows.
        per_doubling: The fitted change when the rows are doubled, and its 95 % interval.
        shape: "line": three or more points that no test at 5 % tells from a line; "two points": a
            line goes through them whatever the truth is; "not a line": they do not lie on one, so
            that nothing is said about more data than was measured.
        at_double: The figure expected at twice the most rows; None where the points do not allow
            it. Its interval holds the noise of the points, and nothing for a bend beyond them.
    """

    points: tuple[Point, ...]
    per_doubling: Change
    shape: Shape
    at_double: Change | None


def fit_learning_curve(noise: NoiseModel, rows: Mapping[str, float]) -> LearningCurve:
    """Fit the configurations in `rows` (name -> rows trained on) by weighted least squares.

    ValueError where fewer than two sizes are there.
    """
    names = sorted(rows, key=lambda name: rows[name])
    if len(set(rows.values())) < 2:
        raise ValueError("a learning curve needs two sizes of the training data")
    index = [noise.configurations.index(name) for name in names]
    sizes = np.log2([rows[name] for name in names])
    design = np.column_stack([np.ones(len(sizes)), sizes])
    # (2, points): level and slope are sums of the figures with these weights.
    solution = _weighted_solution(design, noise, index)
    ahead = np.array([1.0, sizes[-1] + 1]) @ solution
    slope, ahead_change = _changes(
        noise.contrasts(_spread(np.stack([solution[1], ahead]), index, noise))
    )
    shape = _shape(noise, design, index)
    low, high = noise.intervals()
    return LearningCurve(
        points=tuple(
            Point(name, rows[name], float(noise.values[at]), float(low[at]), float(high[at]))
            for name, at in zip(names, index, strict=True)
        ),
        per_doubling=slope,
        shape=shape,
        at_double=None if shape == "not a line" else ahead_change,
    )


def _weighted_solution(design: Floats, noise: NoiseModel, index: list[int]) -> Floats:
    """Points with less seed noise weigh more; rows are the same for all, so they weigh alike."""
    variance = noise.seed_variance[index]
    weights = 1 / variance if np.all(variance > 0) else np.ones(len(index))
    weighted = design * weights[:, None]
    return np.asarray(np.linalg.solve(weighted.T @ design, weighted.T))


def _shape(noise: NoiseModel, design: Floats, index: list[int]) -> Shape:
    if len(np.unique(design[:, 1])) == 2:
        return "two points"
    # Orthonormal sums of the figures that are 0 where they lie on a line.
    basis, _ = np.linalg.qr(design, mode="complete")
    bends = noise.contrasts(_spread(basis[:, 2:].T, index, noise))
    corrected, _ = holm(bends.p_values(), 0.05)
    return "not a line" if np.any(corrected <= 0.05) else "line"


def _spread(weights: Floats, index: list[int], noise: NoiseModel) -> Floats:
    full = np.zeros((len(weights), len(noise.configurations)))
    full[:, index] = weights
    return full


def _changes(contrasts: Contrasts) -> list[Change]:
    half = contrasts.half_width(0.95)
    return [
        Change(float(value), float(value - width), float(value + width))
        for value, width in zip(contrasts.values, half, strict=True)
    ]

"""Agreement between raters beyond chance."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal"]


@dataclass(frozen=True)
class Agreement:
    """A coefficient (1: all agree, 0: as by chance; None where it is not defined), and what it
    was computed from: units with two ratings or more, and their ratings."""

    value: float | None
    units: int
    ratings: int


def krippendorff_alpha(
    units: Iterable[Mapping[str, Hashable]],
    categories: Sequence[Hashable],
    level: Level = "nominal",
) -> Agreement:
    """Return Krippendorff's alpha.

    The computation by coincidences of Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability": 1 − observed / expected disagreement, over all pairs of ratings within a
    unit. It is not defined where all ratings are the same category.

    Args:
        units: Of each thing that was rated, rater → category.
        categories: All of them; of ordinal ones, in their order.
        level: How far apart two categories are.
    """
    place = {category: index for index, category in enumerate(categories)}
    coincidences = np.zeros((len(place), len(place)))
    compared = 0
    for unit in units:
        counts = np.bincount([place[value] for value in unit.values()], minlength=len(place))
        ratings = counts.sum()
        if ratings < 2:
            continue
        compared += 1
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (ratings - 1)
    totals = coincidences.sum(0)
    n = totals.sum()
    distance = _distances(totals, level)
    expected = (np.outer(totals, totals) * distance).sum()
    ratings = round(float(n))
    if expected == 0:
        return Agreement(None, compared, ratings)
    observed = (coincidences * distance).sum()
    return Agreement(float(1 - (n - 1) * observed / expected), compared, ratings)


def _distances(totals: Floats, level: Level) -> Floats:
    """(categories, categories): squared distances, for ordinal ones by the ratings between them."""
    count = len(totals)
    if level == "nominal":
        return 1.0 - np.eye(count)
    ends = np.cumsum(totals) - totals / 2  # the middle of each category's ranks
    return np.asarray((ends[:, None] - ends[None, :]) ** 2)


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> Agreement:
    """Return Cohen's kappa (Cohen 1960) of two raters' categories of the same units; it is not
    defined where both use one category only."""
    n = len(pairs)
    if not n:
        return Agreement(None, 0, 0)
    categories = {category for pair in pairs for category in pair}
    by_chance = sum(
        sum(first == c for first, _ in pairs) * sum(second == c for _, second in pairs)
        for c in categories
    ) / (n * n)
    if by_chance == 1:
        return Agreement(None, n, 2 * n)
    agreed = sum(first == second for first, second in pairs) / n
    return Agreement((agreed - by_chance) / (1 - by_chance), n, 2 * n)

"""Which of two configurations is better, and how sure: differences corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, Self

import numpy as np

from chatpipe.statistics import student_t
from chatpipe.statistics.noise import NoiseModel
from chatpipe.statistics.paired_rows import Floats

Pair = tuple[str, str]
SeedNoise = Literal["own", "pooled", "missing", "none"]
POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """The first configuration's figure minus the second's; negative is better for the first.

    Attributes:
        low, high: The 95 % interval of this pair by itself; None where there is but one row.
        corrected_low, corrected_high: The interval at the level of Holm's procedure at which the
            verdict was reached; it contains 0 exactly where the verdict is "not distinguishable".
        p: Of no difference.
        corrected_p: The same, by Holm's procedure over all pairs that were compared.
        detectable: The smallest difference that a study like this one finds in 80 % of the cases.
        seed_noise: "own": estimated for each configuration; "pooled": one estimate from all
            configurations; "missing": not in the interval, because nothing was trained with two
            seeds; "none": neither was trained.
    """

    first: str
    second: str
    value: float
    low: float | None
    high: float | None
    corrected_low: float | None
    corrected_high: float | None
    p: float
    corrected_p: float
    verdict: Literal["better", "worse", "not distinguishable"]
    detectable: float | None
    seed_noise: SeedNoise

    def reversed(self) -> Self:
        """Return the same of the second configuration minus the first."""
        turned: dict[str, Literal["better", "worse"]] = {"better": "worse", "worse": "better"}
        return replace(
            self,
            first=self.second,
            second=self.first,
            value=-self.value,
            low=_negative(self.high),
            high=_negative(self.low),
            corrected_low=_negative(self.corrected_high),
            corrected_high=_negative(self.corrected_low),
            verdict=turned.get(self.verdict, self.verdict),
        )


def all_pairs(noise: NoiseModel) -> list[Pair]:
    """Return each two configurations once."""
    return list(combinations(noise.configurations, 2))


def compare(
    noise: NoiseModel, pairs: Sequence[Pair] | None = None, alpha: float = 0.05
) -> list[Comparison]:
    """Compare the pairs (default: all), with Holm's correction (1979) over all of them.

    At most a share `alpha` of studies without any difference calls some pair different.
    """
    compared = all_pairs(noise) if pairs is None else list(pairs)
    if not compared:
        return []
    index = {name: place for place, name in enumerate(noise.configurations)}
    weights = np.zeros((len(compared), len(index)))
    for place, (first, second) in enumerate(compared):
        weights[place, index[first]] += 1
        weights[place, index[second]] -= 1
    contrasts = noise.contrasts(weights)
    p = contrasts.p_values()
    corrected, steps = holm(p, alpha)
    one = np.ones(len(compared))
    probabilities = (
        1 - alpha / 2 * one,
        1 - steps / 2,
        1 - alpha / len(compared) / 2 * one,
        POWER * one,
    )
    widths = student_t.quantile(np.stack(probabilities), contrasts.df) * contrasts.errors
    half, corrected_half, detectable = widths[0], widths[1], widths[2] + widths[3]
    return [
        Comparison(
            first=first,
            second=second,
            value=float(value),
            low=_number(value - half[place]),
            high=_number(value + half[place]),
            corrected_low=_number(value - corrected_half[place]),
            corrected_high=_number(value + corrected_half[place]),
            p=float(p[place]),
            corrected_p=float(corrected[place]),
            verdict=_verdict(value, bool(corrected[place] <= alpha)),
            detectable=_number(detectable[place]),
            seed_noise=_seed_noise(noise, index[first], index[second]),
        )
        for place, ((first, second), value) in enumerate(
            zip(compared, contrasts.values, strict=True)
        )
    ]


def holm(p: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the p-values corrected by Holm's procedure, and the level at which each was decided.

    The procedure compares the smallest p with alpha / m, the next with alpha / (m − 1), and ends at
    the first that is larger; its level decides all that follow.
    """
    count = len(p)
    order = np.argsort(p, kind="stable")
    factors = count - np.arange(count)
    corrected = np.empty(count)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    rejected = int(np.count_nonzero(corrected <= alpha))
    levels = np.empty(count)
    levels[order] = alpha / np.maximum(factors, count - rejected)
    return corrected, levels


def _verdict(value: float, different: bool) -> Literal["better", "worse", "not distinguishable"]:
    if not different:
        return "not distinguishable"
    return "better" if value < 0 else "worse"


def _seed_noise(noise: NoiseModel, first: int, second: int) -> SeedNoise:
    trained = [place for place in (first, second) if noise.seeded[place]]
    if not trained:
        return "none"
    if not noise.seed_noise_is_known:
        return "missing"
    own = all(noise.runs[place] > 1 for place in trained)
    return "own" if own and not noise.pooled else "pooled"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value

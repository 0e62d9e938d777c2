"""Comparisons of a study's configurations on one held-out set: those of `chatpipe.statistics`, with
the set and the unit of their figures."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from chatpipe import statistics
from chatpipe.report.schema.base import Contract

Unit = Literal["tokens", "bytes"]
_CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class RankedVariant(Contract):
    """A configuration on one set; the best one of a set is first.

    value: the mean over its seeds, in nats per token (unit "tokens"), or in bits per byte where the
    configurations count tokens differently (unit "bytes"). low, high: its 95 % interval, None for a
    single row. probability_of_best: of having the lowest true figure.
    """

    heldout: str
    configuration: str
    unit: Unit
    value: float
    low: float | None = None
    high: float | None = None
    probability_of_best: float


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Verdict(statistics.Comparison):
    """A comparison of two configurations, on the `rows` that all configurations were scored on;
    left_out: other rows of the set. Figures as in a RankedVariant."""

    heldout: str
    unit: Unit
    rows: int
    left_out: int = 0


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class LearningCurve(statistics.LearningCurve):
    """The curve of the configurations that differ by `data_share` alone.

    configuration: what they share. rows_scored: that the figures are of.
    """

    heldout: str
    unit: Unit
    configuration: str
    rows_scored: int


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Selection(statistics.Selection):
    """The configuration that one part of the held-out rows chooses, with its figure on the other
    part. Its figures are as in a RankedVariant."""

    heldout: str
    unit: Unit


class CostFront(Contract):
    """The Pareto front of a set: the configurations for which no other one costs as little and has
    as low a figure; the cheapest first. Seconds that differ by less than 5 % count as the same.

    cost: "wall_s", mean seconds of a training, or "trained_tokens", where trainings ran on several
    devices, so that seconds do not compare.
    """

    heldout: str
    cost: Literal["wall_s", "trained_tokens"]
    configurations: list[str]

"""Measures of models other than likelihoods."""

from __future__ import annotations

from typing import Literal

from chatpipe.report.schema.base import Contract


class TaskScore(Contract):
    """A measure of a configuration on replies to held-out rows (source "replies") or on a task of
    lm-evaluation-harness ("task"), and its difference from the base.

    task: the held-out set, or the task. metric: "log METRIC" is the logarithm of a perplexity, in
    nats of a word, byte or item. models: those that differ by seed alone; value is the mean over
    them and over rows, low and high its 95 % interval. left_out: rows or items that not every model
    answered. higher_is_better: None where neither is. base, difference and what follows: None for a
    base; the interval of the difference is paired by row, corrected_p is by Holm's procedure over
    all configurations. seed_noise: as in a Verdict.
    """

    source: Literal["replies", "task"]
    task: str
    metric: str
    higher_is_better: bool | None
    configuration: str
    models: list[str]
    value: float
    low: float | None
    high: float | None
    rows: int
    left_out: int = 0
    base: str | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    corrected_p: float | None = None
    verdict: Literal["better", "worse", "higher", "lower", "not distinguishable"] | None = None
    seed_noise: Literal["own", "pooled", "missing", "none"] | None = None

"""Ratings of answers in pairs: by people, and by models as judges."""

from __future__ import annotations

from pydantic import Field

from chatpipe.report.schema.base import Contract


class RatedModel(Contract):
    """What ratings say of a model. A tie, and two bad answers, are half a win for both.

    win_rate: wins and half the ties, as a share of the ratings. strength: Bradley and Terry's, as
    log odds against a model of strength zero; the mean over models is zero. low, high and the like:
    95 % intervals over prompts, None of a model that was rated on one prompt; of a strength, also
    where the model fares the same on every prompt.
    """

    model: str
    ratings: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    win_rate: float
    low: float | None
    high: float | None
    strength: float
    strength_low: float | None
    strength_high: float | None
    correctness: float | None = None  # the mean of 1 to 5
    correctness_ratings: int = 0


class RatedConfiguration(RatedModel):
    """The same of a configuration, or of a base: the ratings of its models, which differ by the
    seed of training alone, pooled. model: its name. models: how many of it were rated.

    Ratings of two models of one configuration are left out. Intervals are over prompts: they do not
    have how far other seeds would differ.
    """

    models: int


class RaterCount(Contract):
    """A rater and the number of ratings."""

    name: str
    ratings: int


class RaterAgreement(Contract):
    """A coefficient of agreement, the units that two or more rated, and their ratings; the value is
    None where it is not defined."""

    value: float | None
    units: int
    ratings: int


class PositionBias(Contract):
    """Of the answers that were better, how many were shown first; share with its 95 % interval
    (Wilson's). Without a bias it is a half."""

    first: int
    decided: int
    share: float
    low: float
    high: float


class PeoplesRatings(Contract):
    """Blind ratings by people. alpha: Krippendorff's, of the verdicts (nominal); correctness_alpha:
    of correctness from 1 to 5 (ordinal). configurations: empty where none has several models that
    were rated."""

    raters: list[RaterCount]
    ratings: int
    pairs: int
    prompts: int
    models: list[RatedModel]
    configurations: list[RatedConfiguration] = Field([])
    alpha: RaterAgreement
    correctness_alpha: RaterAgreement
    position: PositionBias | None


class JudgesRatings(Contract):
    """Ratings by a model, which was shown every pair in both orders.

    flipped: pairs of which the verdict changed with the order; they count as ties. failed: reason →
    pairs without a verdict. agreed, compared: pairs with the verdict of most people, of those that
    people rated; kappa: Cohen's, of the same. configurations: empty where none has several models
    that were rated.
    """

    judge: str
    ratings: int
    prompts: int
    flipped: int
    failed: dict[str, int]
    models: list[RatedModel]
    configurations: list[RatedConfiguration] = Field([])
    position: PositionBias | None
    agreed: int
    compared: int
    kappa: float | None


class Ratings(Contract):
    """All ratings of a study. left_out: reason → ratings that are in none of the figures."""

    people: PeoplesRatings | None = None
    judges: list[JudgesRatings] = Field([])
    left_out: dict[str, int] = Field({})

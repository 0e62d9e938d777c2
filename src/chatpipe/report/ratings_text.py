"""The tables of blind ratings, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chatpipe.report import formatting as show
from chatpipe.report.schema import Report
from chatpipe.report.schema.ratings import (
    JudgesRatings,
    PeoplesRatings,
    PositionBias,
    RatedConfiguration,
    RatedModel,
)
from chatpipe.utils.quantities import in_per_cent
from chatpipe.utils.texts import counted, join, translate

READING = (
    "Two answers to one prompt were shown without the names of their models, in an order drawn by "
    "chance. The win rate is the share of wins and half the ties; two bad answers count as a tie. "
    "Strength is Bradley and Terry's, in log odds, with a mean of zero over the models: a model "
    "that is stronger by 1 is preferred in 73 % of comparisons. Intervals are 95 %, over prompts."
)
POOLED = (
    "Models that differ by the seed of training alone are one variant here; ratings of two of them "
    "are left out. The intervals are over prompts, and do not have how far other seeds would "
    "differ."
)
FEW_PROMPTS = 10
Rows = list[dict[str, str]]


def title(report: Report) -> str:
    """Return the heading of the section."""
    is_of_people = report.ratings is not None and report.ratings.people is not None
    return translate("Ratings by people" if is_of_people else "Ratings by a model")


class Section(NamedTuple):
    """A table of ratings, and what is said of them."""

    title: str
    rows: Rows
    sentences: list[str]


def sections(report: Report) -> Iterator[Section]:
    """Yield the ratings of people, then those of each judge."""
    if report.ratings is None:
        return
    if people := report.ratings.people:
        title = translate("Ratings by people")
        yield from _pooled(title, people.configurations)
        sentences = [*_of_people(people), *_without_intervals(people.models)]
        yield Section(title, _rows(people.models, report), sentences)
    for judge in report.ratings.judges:
        title = translate("Ratings by the model {judge}", judge=judge.judge)
        yield from _pooled(title, judge.configurations)
        sentences = [*_of_judge(judge), *_without_intervals(judge.models)]
        yield Section(title, _rows(judge.models, report), sentences)


def _pooled(title: str, configurations: list[RatedConfiguration]) -> Iterator[Section]:
    """Yield the ratings of configurations, where the models of one differ by seed."""
    if not configurations:
        return
    has_correctness = any(each.correctness_ratings for each in configurations)
    rows = []
    for each in configurations:
        model, *others = _row(each, has_correctness).items()
        rows.append(dict([model, ("Seeds", show.count(each.models)), *others]))
    sentences = [translate(POOLED), *_without_intervals(configurations)]
    yield Section(translate("{title}, seeds of a variant pooled", title=title), rows, sentences)


def left_out(report: Report) -> str:
    """Say how many ratings are in none of the figures, and why; nothing where all are."""
    if report.ratings is None or not report.ratings.left_out:
        return ""
    counts = show.counts(report.ratings.left_out)
    return translate("Ratings in none of these figures: {counts}.", counts=counts)


def _rows(models: list[RatedModel], report: Report) -> Rows:
    """One row of each model that was rated, then of those whose answers could have been."""
    has_correctness = any(model.correctness_ratings for model in models)
    rows = [_row(model, has_correctness) for model in models]
    answering = dict.fromkeys(each.model for each in report.answers if each.asked == "template")
    for name in answering if rows else ():
        if name not in {model.model for model in models}:
            missing = dict.fromkeys(rows[0], show.MISSING)
            rows.append(missing | {"Model": name, "Ratings": show.count(0)})
    return rows


def _row(model: RatedModel, has_correctness: bool) -> dict[str, str]:
    row = {
        "Model": model.model,
        "Ratings": show.count(model.ratings),
        "Wins": show.count(model.wins),
        "Losses": show.count(model.losses),
        "Ties": show.count(model.ties),
        "Both bad": show.count(model.both_bad),
        "Win rate": show.per_cent(model.win_rate) + _per_cents(model.low, model.high),
        "Strength": _signed(model.strength, model.strength_low, model.strength_high),
    }
    if has_correctness:
        row["Correctness (1–5)"] = (
            show.MISSING
            if model.correctness is None
            else f"{model.correctness:.2f} (n = {model.correctness_ratings:,})"
        )
    return row


def _of_people(people: PeoplesRatings) -> Iterator[str]:
    yield translate(
        "{ratings} of {pairs} on {prompts} by {raters}: {names}.",
        ratings=counted(people.ratings, "rating"),
        pairs=counted(people.pairs, "pair"),
        prompts=counted(people.prompts, "prompt"),
        raters=counted(len(people.raters), "rater"),
        names=join([f"{rater.name} {rater.ratings:,}" for rater in people.raters]),
    )
    yield from _few_prompts(people.prompts)
    for name, agreement in (
        ("verdicts", people.alpha),
        ("correctness", people.correctness_alpha),
    ):
        if agreement.value is not None:
            yield translate(
                "Agreement of raters on {name}: Krippendorff's alpha {alpha} (1: all agree, 0: as "
                "by chance; {units} that two or more rated).",
                name=translate(name),
                alpha=show.fixed(agreement.value, 2),
                units=counted(agreement.units, "unit"),
            )
        elif name == "verdicts":
            yield translate(
                "Agreement of raters is not known: all verdicts are the same."
                if agreement.units
                else "Agreement of raters is not known: no pair was rated by two people."
            )
    yield from _order(people.position)


def _without_intervals(models: Sequence[RatedModel]) -> Iterator[str]:
    """Say which figures have no interval, and why."""
    no_rate = [model.model for model in models if model.low is None]
    no_strength = [
        model.model for model in models if model.low is not None and model.strength_low is None
    ]
    if no_rate:
        yield translate(
            "Without an interval, as rated on one prompt only: {names}.", names=join(no_rate)
        )
    if no_strength:
        yield translate(
            "Without an interval of the strength, as every prompt has the same win rate: {names}.",
            names=join(no_strength),
        )


def _of_judge(judge: JudgesRatings) -> Iterator[str]:
    name = judge.judge
    shown = judge.ratings
    if judge.failed:
        yield translate(
            "The model {name} gave no verdict on {pairs}: {counts}.",
            name=name,
            pairs=counted(sum(judge.failed.values()), "pair"),
            counts=show.counts(judge.failed),
        )
    if not shown:
        return
    yield translate(
        "The model {name} gave a verdict on {pairs} in both orders; it changed with the order in "
        "{flipped} ({share}), which count as ties.",
        name=name,
        pairs=counted(shown, "pair"),
        flipped=f"{judge.flipped:,}",
        share=show.per_cent(judge.flipped / shown),
    )
    yield from _few_prompts(judge.prompts)
    if judge.compared:
        yield translate(
            "The model {name} and most people agree on {agreed} of {pairs} ({share}); Cohen's "
            "kappa is {kappa}.",
            name=name,
            agreed=f"{judge.agreed:,}",
            pairs=counted(judge.compared, "pair"),
            share=show.per_cent(judge.agreed / judge.compared),
            kappa=translate("not defined") if judge.kappa is None else show.fixed(judge.kappa, 2),
        )
    else:
        yield translate(
            "The model {name} and people rated no pair both, so their agreement is not known.",
            name=name,
        )
    yield from _order(judge.position)


def _few_prompts(prompts: int) -> Iterator[str]:
    if prompts < FEW_PROMPTS:
        yield translate(
            "With {prompts}, these intervals say little of other prompts.",
            prompts=counted(prompts, "prompt"),
        )


def _order(position: PositionBias | None) -> Iterator[str]:
    if position:
        yield translate(
            "Of {answers} that were better, {first} were shown first ({share}; without a bias, "
            "50 %).",
            answers=counted(position.decided, "answer"),
            first=f"{position.first:,}",
            share=show.per_cent(position.share) + _per_cents(position.low, position.high),
        )


def _per_cents(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{in_per_cent(low)}, {in_per_cent(high)}]"


def _signed(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return show.fixed(value, 2, "+")
    value_text, *ends = (show.fixed(number, 2, "+") for number in (value, low, high))
    return f"{value_text} [{', '.join(ends)}]"

"""The tables of blind ratings, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator

from chatpipe.report import formatting as show
from chatpipe.report.schema import FEW_ROWS, Report
from chatpipe.report.schema.ratings import JudgesRatings, PeoplesRatings, PositionBias, RatedModel
from chatpipe.utils.quantities import count_of

READING = (
    "Two answers to one prompt were shown without the names of their models, in an order drawn by "
    "chance. The win rate is the share of wins and half the ties; two bad answers count as a tie. "
    "Strength is Bradley and Terry's, in log odds, with a mean of zero over the models: a model "
    "that is stronger by 1 is preferred in 73 % of comparisons. Intervals are 95 %, over prompts."
)
Rows = list[dict[str, str]]


def title(report: Report) -> str:
    """Return the heading of the section."""
    is_of_people = report.ratings is not None and report.ratings.people is not None
    return "Ratings by people" if is_of_people else "Ratings by a model"


def sections(report: Report) -> Iterator[tuple[str, Rows]]:
    """Yield (title, rows) of each table: of people, then of each judge."""
    if report.ratings is None:
        return
    if people := report.ratings.people:
        yield "Ratings by people", _rows(people.models)
    for judge in report.ratings.judges:
        yield f"Ratings by the model {judge.judge}", _rows(judge.models)


def sentences(report: Report) -> Iterator[str]:
    """Say how many ratings there are, how far raters agree, and whether the order mattered."""
    if report.ratings is None:
        return
    if people := report.ratings.people:
        yield from _of_people(people)
    for judge in report.ratings.judges:
        yield from _of_judge(judge)
    if report.ratings.left_out:
        yield f"Ratings in none of these figures: {show.counts(report.ratings.left_out)}."


def _rows(models: list[RatedModel]) -> Rows:
    has_correctness = any(model.correctness_ratings for model in models)
    return [_row(model, has_correctness) for model in models]


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
    raters = ", ".join(f"{rater.name} {rater.ratings:,}" for rater in people.raters)
    yield (
        f"{count_of(people.ratings, 'rating')} of {count_of(people.pairs, 'pair')} on "
        f"{count_of(people.prompts, 'prompt')} by {count_of(len(people.raters), 'rater')}: "
        f"{raters}."
    )
    yield from _few_prompts(people.prompts)
    for name, agreement in (
        ("verdicts", people.alpha),
        ("correctness", people.correctness_alpha),
    ):
        if agreement.value is not None:
            yield (
                f"Agreement of raters on {name}: Krippendorff's alpha {_two(agreement.value)} (1: "
                f"all agree, 0: as by chance; {count_of(agreement.units, 'unit')} that two or more "
                "rated)."
            )
        elif name == "verdicts":
            yield (
                "Agreement of raters is not known: "
                + (
                    "all verdicts are the same."
                    if agreement.units
                    else "no pair was rated by two people."
                )
            )
    yield from _order(people.position)


def _of_judge(judge: JudgesRatings) -> Iterator[str]:
    name = f"The model {judge.judge}"
    shown = judge.ratings
    yield (
        f"{name} was shown {count_of(shown, 'pair')} in both orders; its verdict changed with the "
        f"order in {judge.flipped:,} ({show.per_cent(judge.flipped / max(1, shown))}), which count "
        "as ties."
    )
    if judge.failed:
        yield f"{name} gave no verdict on {show.counts(judge.failed)}."
    yield from _few_prompts(judge.prompts)
    if judge.compared:
        share = show.per_cent(judge.agreed / judge.compared)
        kappa = "not defined" if judge.kappa is None else _two(judge.kappa)
        yield (
            f"{name} and most people agree on {judge.agreed:,} of "
            f"{count_of(judge.compared, 'pair')} ({share}); Cohen's kappa is {kappa}."
        )
    else:
        yield f"{name} and people rated no pair both, so their agreement is not known."
    yield from _order(judge.position)


def _few_prompts(prompts: int) -> Iterator[str]:
    if prompts < FEW_ROWS:
        yield f"With {count_of(prompts, 'prompt')}, these intervals say little of other prompts."


def _order(position: PositionBias | None) -> Iterator[str]:
    if position:
        yield (
            f"Of {count_of(position.decided, 'answer')} that were better, {position.first:,} were "
            f"shown first ({show.per_cent(position.share)}"
            f"{_per_cents(position.low, position.high)}; without a bias, 50 %)."
        )


def _per_cents(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{100 * low:.0f}, {100 * high:.0f}]"


def _signed(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return _two(value, "+")
    return f"{_two(value, '+')} [{_two(low, '+')}, {_two(high, '+')}]"


def _two(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}".replace("-", show.MINUS)

"""Tables of a study's configurations: their order, pairs, learning curves, settings and cost."""

from __future__ import annotations

from collections.abc import Set

from chatpipe.report import formatting as show
from chatpipe.report.configuration_marks import otherwise_used_mark, seen_in_training_mark
from chatpipe.report.schema import NOT_KNOWN, Configuration, RankedVariant, Report, Verdict
from chatpipe.utils.texts import translate

MOST_OPEN = 12  # rows of a table that is not folded
MOST_BEST = 5  # of a long ranking, on each data set
MOST_ROWS = 30  # of the table of pairs on a page; report.json has all

Row = dict[str, str]


def best_rows(report: Report) -> list[Row]:
    """The first rows of a long ranking on each data set; nothing of a short one."""
    rows = ranking_rows(report)
    if len(rows) <= MOST_OPEN:
        return []
    sets = dict.fromkeys(row["Held-out set"] for row in rows)
    return [
        row
        for heldout in sets
        for row in [each for each in rows if each["Held-out set"] == heldout][:MOST_BEST]
    ]


def ranking_rows(report: Report) -> list[Row]:
    """Configurations on each data set, the best one first."""
    best = _best(report)
    rows_of = {pair.heldout: pair.rows for pair in report.verdicts}
    units = {item.unit for item in report.ranking}
    figure = _figure_header(units)
    front = {(f.heldout, name) for f in report.fronts for name in f.configurations}
    return [
        {
            "Variant": item.configuration,
            "Held-out set": item.heldout,
            "Rows": show.count(rows_of.get(item.heldout)),
            figure: _figure(
                item,
                seen_in_training_mark(report, item.heldout, item.configuration)
                + otherwise_used_mark(report, best[item.heldout], item.configuration),
                names_unit=len(units) > 1 and item.unit == "bytes",
            ),
            "Probability of being best": show.per_cent(item.probability_of_best),
            **_settings(report.configuration(item.configuration), report),
            **_cost(report.configuration(item.configuration)),
            "Pareto front": _in_front(report, item, front),
        }
        for item in report.ranking
    ]


def configuration_rows(report: Report) -> list[Row]:
    """Every configuration with the settings that vary, and its cost."""
    return [
        {"Variant": each.name, **_settings(each, report), **_cost(each)}
        for each in report.configurations
    ]


def verdict_rows(report: Report) -> list[Row]:
    """Pairs of variants on each data set, the one with the lower figure first: all, or of many
    those with the best variant."""
    best = _best(report)
    pairs = report.verdicts
    if len(pairs) > MOST_ROWS:
        pairs = [pair for pair in pairs if best[pair.heldout] in (pair.first, pair.second)]
    return [
        {
            "Variant": pair.first,
            "Compared with": pair.second,
            "Held-out set": pair.heldout,
            "Difference": _difference(
                pair,
                seen_in_training_mark(report, pair.heldout, pair.first, pair.second)
                + otherwise_used_mark(report, pair.first, pair.second),
            ),
            "Verdict": translate(pair.verdict),
            "Would have been found": show.MISSING
            if pair.detectable is None
            else show.amount(pair.detectable, pair.unit),
        }
        for pair in (pair if pair.value <= 0 else pair.reversed() for pair in pairs)
    ]


def missing_rows(report: Report) -> list[Row]:
    """The models without figures."""
    return [{"Model": cell.name, "Reason": cell.reason} for cell in report.missing]


def seconds_of(report: Report, item: RankedVariant) -> float | None:
    """Return the mean seconds of a training of a ranked configuration."""
    configuration = report.configuration(item.configuration)
    return configuration.cost.wall_s if configuration else None


def _in_front(report: Report, item: RankedVariant, front: Set[tuple[str, str]]) -> str:
    if (item.heldout, item.configuration) in front:
        return translate("yes")
    configuration = report.configuration(item.configuration)
    return translate(NOT_KNOWN) if _is_elsewhere(configuration) else show.MISSING


def _is_elsewhere(configuration: Configuration | None) -> bool:
    """Whether it was trained elsewhere, so that its cost is not known."""
    return configuration is not None and not configuration.cost.trainings


def _settings(configuration: Configuration | None, report: Report) -> Row:
    """One column for each setting that varies; of a base they are empty."""
    keys = report.configurations[0].settings if report.configurations else {}
    values = configuration.settings if configuration else {}
    return {key: show.setting(values.get(key)) for key in keys}


def _cost(configuration: Configuration | None) -> Row:
    cost = configuration.cost if configuration else None
    if _is_elsewhere(configuration):
        headers = ("Seeds", "Training time", "Tokens", "Peak memory")
        return dict.fromkeys(headers, translate(NOT_KNOWN))
    return {
        "Seeds": show.count(cost.trainings if cost else None),
        "Training time": show.duration(cost.wall_s if cost else None),
        "Tokens": show.count(cost.trained_tokens if cost else None),
        "Peak memory": show.gibibytes(cost.peak_memory_bytes if cost else None),
    }


def _figure_header(units: Set[str]) -> str:
    """Return the header of figures: what they all are, or both."""
    if units == {"tokens"}:
        return "Perplexity"
    return "Bits per byte" if units == {"bytes"} else "Perplexity or bits per byte"


def _best(report: Report) -> dict[str, str]:
    """The best configuration on each data set."""
    return {item.heldout: item.configuration for item in reversed(report.ranking)}


def _figure(item: RankedVariant, marks: str, names_unit: bool) -> str:
    unit = translate(" bits per byte") if names_unit else ""
    value = show.figure(item.value, item.unit)
    if item.low is None or item.high is None:
        return f"{value}{unit}{marks}"
    low, high = (show.figure(end, item.unit) for end in (item.low, item.high))
    return f"{value}{unit}{marks} [{low}, {high}]"


def _difference(pair: Verdict, marks: str) -> str:
    ends = [] if pair.low is None or pair.high is None else [pair.low, pair.high]
    value, *interval = (show.signed_amount(number, pair.unit) for number in (pair.value, *ends))
    return f"{value}{marks} [{interval[0]}, {interval[1]}]" if interval else value + marks

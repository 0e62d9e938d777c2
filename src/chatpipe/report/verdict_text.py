"""The verdicts of a study in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chatpipe.report.comparison_tables import seconds_of
from chatpipe.report.configuration_marks import otherwise_used_mark
from chatpipe.report.formatting import FIGURES, about_time, amount, figure, per_cent, plain
from chatpipe.report.schema import LearningCurve, RankedVariant, Report, Verdict
from chatpipe.utils.texts import join, translate

MOST_NAMED = 3

VERDICTS = (
    "Figures are means over the seeds of a variant, with intervals by Student's t; those of single"
    " models in other tables have intervals by a bootstrap over rows, so the two differ a little. "
    "A difference is that of two variants on the rows that all were scored on, in per cent of the "
    "perplexity, or in bits per byte where variants count tokens differently; its 95 % interval "
    "has the noise of rows and, where a variant was trained with several seeds, that of seeds. A "
    "variant is better or worse where Holm's correction over all pairs of a set leaves p ≤ 0.05. "
    "The last column is the smallest difference that the study would have found in 80 % of the "
    "cases."
)

CHOICE = (
    "The best variant is chosen on one part of the held-out rows and reported on the other part, "
    "so that picking the luckiest is not rewarded."
)


def verdict_sentences(report: Report) -> list[str]:
    """Return what is missing, which variant is best on each data set, what more data gives, and
    whether seeds are in the intervals."""
    sets = dict.fromkeys(item.heldout for item in report.ranking)
    chosen_sentences = [sentence for heldout in sets for sentence in _selection(report, heldout)]
    curves = curve_sentences(report)[:MOST_NAMED]
    chosen = [translate(CHOICE)] if any(len(s.comparisons) > 1 for s in report.selections) else []
    return [
        *missing_sentences(report),
        *best_sentences(report),
        *seed_sentences(report),
        *chosen_sentences,
        *chosen,
        *curves,
    ]


def best_sentences(report: Report) -> list[str]:
    """Say for each data set which variant is best, by how much and how sure that is."""
    sets = dict.fromkeys(item.heldout for item in report.ranking)
    return [_best(report, heldout) for heldout in sets]


def _best(report: Report, heldout: str) -> str:
    ranking = [item for item in report.ranking if item.heldout == heldout]
    best, others = ranking[0], ranking[1:]
    pairs = {other.configuration: _pair(report, best, other) for other in others}
    marked = {name: name + otherwise_used_mark(report, best.configuration, name) for name in pairs}
    close = [o for o in others if pairs[o.configuration].verdict == "not distinguishable"]
    if not close:
        following = others[0].configuration
        lower = _lower(pairs[following])
        if len(others) == 1:
            text = "On {heldout}, {best} is better than {other}: {lower}."
        else:
            text = (
                "On {heldout}, {best} is better than every other variant; than the next, {other}: "
                "{lower}."
            )
        return translate(
            text,
            heldout=heldout,
            best=best.configuration,
            other=marked[following],
            lower=lower,
        )
    names = _listed([marked[item.configuration] for item in close])
    pair = pairs[close[0].configuration]
    text = translate(
        "On {heldout}, {best} has the lowest figure, but {names} {verb} not distinguishable from "
        "it ({lower}{first}; it is the best with a probability of {probability})",
        heldout=heldout,
        best=best.configuration,
        names=names,
        verb="is" if len(close) == 1 else "are",
        lower=_lower(pair),
        first="" if len(close) == 1 else translate(" for the first"),
        probability=per_cent(best.probability_of_best),
    )
    if pair.detectable is not None:
        text += translate(
            "; the study would have found a difference of {amount}",
            amount=amount(pair.detectable, pair.unit),
        )
    return text + _cheaper(report, best, close) + translate(".")


def _pair(report: Report, best: RankedVariant, other: RankedVariant) -> Verdict:
    """The comparison of the two, the better one first."""
    names = {best.configuration, other.configuration}
    pair = next(
        v for v in report.verdicts if v.heldout == best.heldout and {v.first, v.second} == names
    )
    return pair if pair.first == best.configuration else pair.reversed()


def _lower(pair: Verdict) -> str:
    """By how much the first of the two is lower, with the interval of the verdict: 0 is in the
    corrected one, and may not be in the pair's own, where they are not distinguishable."""
    low, high = pair.low, pair.high
    if pair.verdict == "not distinguishable":
        low, high = pair.corrected_low, pair.corrected_high
    values = {
        "figure": translate(FIGURES[pair.unit]),
        "amount": amount(-pair.value, pair.unit),
    }
    if low is None or high is None:
        return translate("{figure} lower by {amount}", **values)
    low_text, high_text = (plain(-end, pair.unit) for end in (high, low))
    return translate(
        "{figure} lower by {amount} [{low}, {high}]", **values, low=low_text, high=high_text
    )


def _cheaper(report: Report, best: RankedVariant, close: Sequence[RankedVariant]) -> str:
    seconds = {item.configuration: seconds_of(report, item) for item in (best, *close)}
    trained_s = {name: value for name, value in seconds.items() if value is not None}
    fastest = min(trained_s, key=lambda name: trained_s[name], default=None)
    if fastest is None or best.configuration not in trained_s:
        return ""
    if trained_s[fastest] >= 0.8 * trained_s[best.configuration]:
        return ""
    return translate(
        "; of these, {name} trained fastest ({time}, against {other})",
        name=fastest,
        time=about_time(trained_s[fastest]),
        other=about_time(trained_s[best.configuration]),
    )


def _selection(report: Report, heldout: str) -> Iterator[str]:
    """Say which variant one half of the rows chose, and its figure on the other half."""
    chosen = next((s for s in report.selections if s.heldout == heldout), None)
    if chosen is None or len(chosen.comparisons) < 2:
        return
    better = sum(pair.verdict == "better" for pair in chosen.comparisons)
    value, low, high = (figure(x, chosen.unit) for x in (chosen.value, chosen.low, chosen.high))
    yield translate(
        "Chosen on one part of the held-out rows of {heldout} ({validation}), {chosen} has "
        "{figure} {value} [{low}, {high}] on the other part ({rows}), and is better there than "
        "{better} of {others} others.",
        heldout=heldout,
        validation=f"{chosen.validation_rows:,}",
        chosen=chosen.chosen,
        figure=translate(FIGURES[chosen.unit]),
        value=value,
        low=low,
        high=high,
        rows=f"{chosen.rows:,}",
        better=better,
        others=len(chosen.comparisons),
    )


def curve_sentences(report: Report) -> list[str]:
    """Say for each learning curve what more data gives, as far as its points allow."""
    return [curve_sentence(curve) for curve in report.curves]


def best_curve_sentences(report: Report) -> list[str]:
    """Say for each data set what more data gives to its best variant, where that can be read off a
    line."""
    best = {item.heldout: item.configuration for item in reversed(report.ranking)}
    return [
        curve_sentence(curve)
        for curve in report.curves
        if curve.shape == "line" and best.get(curve.heldout) == curve.configuration
    ]


def curve_sentence(curve: LearningCurve) -> str:
    """Say what more data gives on one curve."""
    rows = [round(point.rows) for point in curve.points]
    names = {"heldout": curve.heldout, "name": curve.configuration}
    sizes = translate(
        "{sizes} sizes, {least} to {most} rows",
        sizes=len(rows),
        least=f"{rows[0]:,}",
        most=f"{rows[-1]:,}",
    )
    if curve.shape == "not a line":
        return translate(
            "On {heldout}, {name}: the figures of {sizes}, do not lie on a line, so none is drawn "
            "further.",
            **names,
            sizes=sizes,
        )
    low, high = sorted((-curve.per_doubling.low, -curve.per_doubling.high))
    text = translate(
        "On {heldout}, {name}: twice the training rows lower {figure} by {value} [{low}, {high}] "
        "({sizes})",
        **names,
        figure=translate(FIGURES[curve.unit]),
        value=amount(-curve.per_doubling.value, curve.unit),
        low=plain(low, curve.unit),
        high=plain(high, curve.unit),
        sizes=sizes,
    )
    return text + _ahead(curve, 2 * rows[-1])


def _ahead(curve: LearningCurve, rows: int) -> str:
    """The end of a curve's sentence: what that many rows would give."""
    if curve.shape == "two points":
        return translate("; two sizes do not show whether they lie on a line.")
    if curve.at_double is None:
        return translate(".")
    ahead = curve.at_double
    value, low, high = (figure(x, curve.unit) for x in (ahead.value, ahead.low, ahead.high))
    return translate(
        "; {rows} rows would give {value} [{low}, {high}].",
        rows=f"{rows:,}",
        value=value,
        low=low,
        high=high,
    )


def missing_sentences(report: Report) -> Iterator[str]:
    """Name the models without figures."""
    if not report.missing:
        return
    yield translate(
        "{missing} of {total} models {verb} missing in all figures: {names}.",
        missing=len(report.missing),
        total=len(report.missing) + len(report.models),
        verb="is" if len(report.missing) == 1 else "are",
        names=_listed([cell.name for cell in report.missing]),
    )


def seed_sentences(report: Report) -> Iterator[str]:
    """Say whether the noise between seeds is in the intervals."""
    kinds = {verdict.seed_noise for verdict in report.verdicts}
    if "missing" in kinds:
        yield translate(
            "Each variant was trained with one seed, so that the noise between seeds is not in "
            "these intervals: another seed may turn a verdict (set seeds in the study)."
        )
    elif kinds & {"own", "pooled"}:
        once = [each.name for each in report.configurations if len(each.models) == 1]
        if once:
            yield translate(
                "The noise between seeds is in these intervals; {names} {verb} trained once, so "
                "that of the other variants is taken for theirs.",
                names=_listed(once),
                verb="was" if len(once) == 1 else "were each",
            )
        else:
            yield translate("The noise between seeds is in these intervals.")


def _listed(names: Sequence[str]) -> str:
    """Name the first ones, and say how many more there are."""
    first, more = join(list(names[:MOST_NAMED])), len(names) - MOST_NAMED
    return translate("{first} and {more} more", first=first, more=more) if more > 0 else first

"""The verdicts of a study in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chatpipe.report.comparison_tables import seconds_of
from chatpipe.report.formatting import FIGURES, amount, figure, per_cent, plain
from chatpipe.report.schema import LearningCurve, RankedVariant, Report, Verdict
from chatpipe.utils.quantities import in_time
from chatpipe.utils.sentences import listed

MOST_NAMED = 3

VERDICTS = (
    "Figures are means over the seeds of a variant. A difference is that of two variants on the "
    "rows that all were scored on, in per cent of the perplexity, or in bits per byte where "
    "tokenizers differ; its 95 % interval has the noise of rows and, where a variant was trained "
    "with several seeds, that of seeds. A variant is better or worse where Holm's correction over "
    "all pairs of a set leaves p ≤ 0.05. The last column is the smallest difference that the study "
    "would have found in 80 % of the cases."
)

CHOICE = (
    "The best variant is chosen on one part of the held-out rows and reported on the other part, "
    "so that picking the luckiest is not rewarded."
)


def verdict_sentences(report: Report) -> list[str]:
    """Return what is missing, which variant is best on each data set, what more data gives, and
    whether seeds are in the intervals."""
    sets = dict.fromkeys(item.heldout for item in report.ranking)
    sentences = [
        sentence
        for heldout in sets
        for sentence in (_best(report, heldout), *_selection(report, heldout))
    ]
    curves = curve_sentences(report)[:MOST_NAMED]
    chosen = [CHOICE] if any(len(s.comparisons) > 1 for s in report.selections) else []
    return [*_missing(report), *sentences, *chosen, *curves, *_seeds(report.verdicts)]


def _best(report: Report, heldout: str) -> str:
    ranking = [item for item in report.ranking if item.heldout == heldout]
    best, others = ranking[0], ranking[1:]
    pairs = {other.configuration: _pair(report, best, other) for other in others}
    close = [o for o in others if pairs[o.configuration].verdict == "not distinguishable"]
    if not close:
        following = others[0].configuration
        lower = _lower(pairs[following])
        if len(others) == 1:
            return f"On {heldout}, {best.configuration} is better than {following}: {lower}."
        return (
            f"On {heldout}, {best.configuration} is better than every other variant; than the "
            f"next, {following}: {lower}."
        )
    names = listed([item.configuration for item in close], MOST_NAMED)
    pair = pairs[close[0].configuration]
    verb = "is" if len(close) == 1 else "are"
    text = (
        f"On {heldout}, {best.configuration} has the lowest figure, but {names} {verb} not "
        f"distinguishable from it ({_lower(pair)}{'' if len(close) == 1 else ' for the first'}; "
        f"it is the best with a probability of {per_cent(best.probability_of_best)})"
    )
    if pair.detectable is not None:
        text += f"; the study would have found a difference of {amount(pair.detectable, pair.unit)}"
    return text + _cheaper(report, best, close) + "."


def _pair(report: Report, best: RankedVariant, other: RankedVariant) -> Verdict:
    """The comparison of the two, the better one first."""
    names = {best.configuration, other.configuration}
    pair = next(
        v for v in report.verdicts if v.heldout == best.heldout and {v.first, v.second} == names
    )
    return pair if pair.first == best.configuration else pair.reversed()


def _lower(pair: Verdict) -> str:
    name = FIGURES[pair.unit]
    if pair.low is None or pair.high is None:
        return f"{name} lower by {amount(-pair.value, pair.unit)}"
    low, high = (plain(-end, pair.unit) for end in (pair.high, pair.low))
    return f"{name} lower by {amount(-pair.value, pair.unit)} [{low}, {high}]"


def _cheaper(report: Report, best: RankedVariant, close: Sequence[RankedVariant]) -> str:
    seconds = {item.configuration: seconds_of(report, item) for item in (best, *close)}
    trained_s = {name: value for name, value in seconds.items() if value is not None}
    fastest = min(trained_s, key=lambda name: trained_s[name], default=None)
    if fastest is None or best.configuration not in trained_s:
        return ""
    if trained_s[fastest] >= 0.8 * trained_s[best.configuration]:
        return ""
    return (
        f"; of these, {fastest} trained fastest ({in_time(trained_s[fastest])}, against "
        f"{in_time(trained_s[best.configuration])})"
    )


def _selection(report: Report, heldout: str) -> Iterator[str]:
    """Say which variant one half of the rows chose, and its figure on the other half."""
    chosen = next((s for s in report.selections if s.heldout == heldout), None)
    if chosen is None or len(chosen.comparisons) < 2:
        return
    better = sum(pair.verdict == "better" for pair in chosen.comparisons)
    value, low, high = (figure(x, chosen.unit) for x in (chosen.value, chosen.low, chosen.high))
    yield (
        f"Chosen on one part of the held-out rows of {heldout} ({chosen.validation_rows:,}), "
        f"{chosen.chosen} has {FIGURES[chosen.unit]} {value} [{low}, {high}] on the other part "
        f"({chosen.rows:,}), and is better there than {better} of {len(chosen.comparisons)} others."
    )


def curve_sentences(report: Report) -> list[str]:
    """Say for each learning curve what more data gives, as far as its points allow."""
    return [curve_sentence(curve) for curve in report.curves]


def curve_sentence(curve: LearningCurve) -> str:
    """Say what more data gives on one curve."""
    rows = [round(point.rows) for point in curve.points]
    of = f"On {curve.heldout}, {curve.configuration}"
    sizes = f"{len(rows)} sizes, {rows[0]:,} to {rows[-1]:,} rows"
    if curve.shape == "not a line":
        return f"{of}: the figures of {sizes}, do not lie on a line, so none is drawn further."
    low, high = sorted((-curve.per_doubling.low, -curve.per_doubling.high))
    value = amount(-curve.per_doubling.value, curve.unit)
    text = (
        f"{of}: twice the training rows lower {FIGURES[curve.unit]} by {value} "
        f"[{plain(low, curve.unit)}, {plain(high, curve.unit)}] ({sizes})"
    )
    if curve.shape == "two points":
        return f"{text}; two sizes do not show whether they lie on a line."
    if curve.at_double is None:
        return f"{text}."
    ahead = curve.at_double
    expected, *ends = (figure(x, curve.unit) for x in (ahead.value, ahead.low, ahead.high))
    return f"{text}; {2 * rows[-1]:,} rows would give {expected} [{ends[0]}, {ends[1]}]."


def _missing(report: Report) -> Iterator[str]:
    """Name the models without figures."""
    if not report.missing:
        return
    names = listed([cell.name for cell in report.missing], MOST_NAMED)
    total = len(report.missing) + len(report.models)
    verb = "is" if len(report.missing) == 1 else "are"
    yield f"{len(report.missing)} of {total} models {verb} missing in all figures: {names}."


def _seeds(verdicts: Sequence[Verdict]) -> Iterator[str]:
    kinds = {verdict.seed_noise for verdict in verdicts}
    if "missing" in kinds:
        yield (
            "Each variant was trained with one seed, so that the noise between seeds is not in "
            "these intervals: another seed may turn a verdict (set seeds in the study)."
        )
    elif kinds & {"own", "pooled"}:
        yield "The noise between seeds is in these intervals."

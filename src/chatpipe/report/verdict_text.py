"""The verdicts of a study in sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from chatpipe.report import formatting as show
from chatpipe.report.schema import RankedVariant, Report, Verdict
from chatpipe.utils.quantities import in_time

MOST_NAMED = 3
MOST_ROWS = 30  # of the table of pairs on a page; report.json has all

VERDICTS = (
    "Figures are means over the seeds of a variant. A difference is that of two variants on the "
    "rows that all were scored on, in per cent of the perplexity, or in bits per byte where "
    "tokenizers differ; its 95 % interval has the noise of rows and, where a variant was trained "
    "with several seeds, that of seeds. A variant is better or worse where Holm's correction over "
    "all pairs of a set leaves p ≤ 0.05. The last column is the smallest difference that the study "
    "would have found in 80 % of the cases."
)


def verdict_sentences(report: Report) -> list[str]:
    """Return one sentence for each data set on which variant is best, and one on seeds."""
    sets = dict.fromkeys(item.heldout for item in report.ranking)
    sentences = [_best(report, heldout) for heldout in sets]
    return [*sentences, *_seeds(report.verdicts)] if sentences else []


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
    names = ", ".join(item.configuration for item in close[:MOST_NAMED])
    more = f" and {len(close) - MOST_NAMED} more" if len(close) > MOST_NAMED else ""
    pair = pairs[close[0].configuration]
    verb = "is" if len(close) == 1 else "are"
    text = (
        f"On {heldout}, {best.configuration} has the lowest figure, but {names}{more} {verb} not "
        f"distinguishable from it ({_lower(pair)}{'' if len(close) == 1 else ' for the first'}; "
        f"it is the best with a probability of {_per_cent(best.probability_of_best)})"
    )
    if pair.detectable is not None:
        text += f"; the study would have found a difference of {_amount(pair.detectable, pair)}"
    return text + _cheaper(best, close) + "."


def _pair(report: Report, best: RankedVariant, other: RankedVariant) -> Verdict:
    """The comparison of the two, the better one first."""
    names = {best.configuration, other.configuration}
    pair = next(
        v for v in report.verdicts if v.heldout == best.heldout and {v.first, v.second} == names
    )
    return pair if pair.first == best.configuration else pair.reversed()


def _lower(pair: Verdict) -> str:
    figure = "perplexity" if pair.unit == "tokens" else "bits per byte"
    if pair.low is None or pair.high is None:
        return f"{figure} lower by {_amount(-pair.value, pair)}"
    low, high = (_plain(-end, pair) for end in (pair.high, pair.low))
    return f"{figure} lower by {_amount(-pair.value, pair)} [{low}, {high}]"


def _amount(value: float, pair: Verdict) -> str:
    return _plain(value, pair) + (" %" if pair.unit == "tokens" else "")


def _plain(lower_by: float, pair: Verdict) -> str:
    """Per cent of a perplexity by which exp(−x) is lower, or bits."""
    per_cent = -100 * math.expm1(-lower_by)
    text = f"{per_cent:.1f}" if pair.unit == "tokens" else f"{lower_by:.3f}"
    return text.replace("-", show.MINUS)


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _cheaper(best: RankedVariant, close: Sequence[RankedVariant]) -> str:
    timed = [item for item in close if item.wall_s is not None]
    if not timed or best.wall_s is None:
        return ""
    fastest = min(timed, key=lambda item: item.wall_s or 0.0)
    if (fastest.wall_s or 0.0) >= 0.8 * best.wall_s:
        return ""
    return (
        f"; of these, {fastest.configuration} trained fastest ({in_time(fastest.wall_s or 0.0)}, "
        f"against {in_time(best.wall_s)})"
    )


def _seeds(verdicts: Sequence[Verdict]) -> Iterator[str]:
    kinds = {verdict.seed_noise for verdict in verdicts}
    if "missing" in kinds:
        yield (
            "Each variant was trained with one seed, so that the noise between seeds is not in "
            "these intervals: another seed may turn a verdict (set seeds in the study)."
        )
    elif kinds & {"own", "pooled"}:
        yield "The noise between seeds is in these intervals."


def ranking_rows(report: Report) -> list[dict[str, str]]:
    """Variants on each data set, the best one first."""
    return [
        {
            "Held-out set": item.heldout,
            "Variant": item.configuration,
            "Seeds": show.count(len(item.models)),
            "Figure": _figure(item),
            "Probability of being best": _per_cent(item.probability_of_best),
            "Training time": show.duration(item.wall_s),
        }
        for item in report.ranking
    ]


def _figure(item: RankedVariant) -> str:
    if item.unit == "bytes":
        return f"{item.value:.3f} bits per byte"
    return show.perplexity(math.exp(item.value))


def verdict_rows(report: Report) -> list[dict[str, str]]:
    """Pairs of variants on each data set: all, or of many those with the best variant."""
    best = {item.heldout: item.configuration for item in reversed(report.ranking)}
    pairs = report.verdicts
    if len(pairs) > MOST_ROWS:
        pairs = [pair for pair in pairs if best[pair.heldout] in (pair.first, pair.second)]
    return [
        {
            "Held-out set": pair.heldout,
            "Variant": pair.first,
            "Compared with": pair.second,
            "Difference": _difference(pair),
            "Verdict": pair.verdict,
            "Would have been found": show.MISSING
            if pair.detectable is None
            else _amount(pair.detectable, pair),
        }
        for pair in pairs
    ]


def _difference(pair: Verdict) -> str:
    ends = [] if pair.low is None or pair.high is None else [pair.low, pair.high]
    value, *interval = (_signed(number, pair) for number in (pair.value, *ends))
    return f"{value} [{interval[0]}, {interval[1]}]" if interval else value


def _signed(value: float, pair: Verdict) -> str:
    text = f"{100 * math.expm1(value):+.1f} %" if pair.unit == "tokens" else f"{value:+.3f}"
    return text.replace("-", show.MINUS)

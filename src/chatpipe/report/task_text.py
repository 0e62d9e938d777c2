"""The table of figures other than likelihoods, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator

from chatpipe.report import formatting as show
from chatpipe.report.schema import Report, TaskScore
from chatpipe.utils.texts import join, translate

TITLE = "What else changed: replies and tasks"
READING = (
    "Tasks of lm-evaluation-harness show what got better or worse elsewhere; “log” is the "
    "logarithm of a perplexity, in nats. Replies are a model's own to some rows of each held-out "
    "set, always the same ones: ROUGE-L (0 to 1, words) and chrF (0 to 100, characters) say how "
    "alike such a reply and the row's are. A figure is the mean over items and, where a variant "
    "has several, seeds, with its 95 % interval; a difference from the base is paired by item, and "
    "better or worse where Holm's correction over the models leaves p ≤ 0.05."
)
_METRICS = {
    "exact_match": "exact match",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "characters": "length in characters",
    "ends": "ends by itself",
}


def task_rows(report: Report) -> list[dict[str, str]]:
    """Return a line for each set, measure and model; the bases first."""
    return list(map(_row, report.task_scores))


def worse_sentences(report: Report) -> Iterator[str]:
    """Say for each variant in what it is worse than its base."""
    worse: dict[str, list[str]] = {}
    for score in report.task_scores:
        if score.verdict == "worse":
            figure = translate("{measure} on {task}", measure=_metric(score), task=score.task)
            worse.setdefault(score.configuration, []).append(figure)
    for name, figures in worse.items():
        yield translate(
            "{name} is worse than its base in {figures}.", name=name, figures=join(figures)
        )


def _row(score: TaskScore) -> dict[str, str]:
    return {
        "On": score.task,
        "Measure": _metric(score),
        "Model": score.configuration,
        "Figure": f"{show.perplexity(score.value)}{show.left_out_mark(score.left_out)}"
        f"{show.few_rows(score.rows)}{show.interval(score.low, score.high)}",
        "Minus the base's": _difference(score),
        "Verdict": translate(score.verdict or show.MISSING),
    }


def _metric(score: TaskScore) -> str:
    return translate(_METRICS.get(score.metric, score.metric))


def _difference(score: TaskScore) -> str:
    if score.difference is None:
        return show.MISSING
    text = show.signed(score.difference)
    if score.difference_low is None or score.difference_high is None:
        return text
    return f"{text} [{show.signed(score.difference_low)}, {show.signed(score.difference_high)}]"

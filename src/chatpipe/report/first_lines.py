"""The first lines of a report, which nobody must miss, and what follows later."""

from __future__ import annotations

from chatpipe.report.comparability import few_rows, statements, whole_differences
from chatpipe.report.contaminated_sets import contamination_sentences
from chatpipe.report.elsewhere import elsewhere_sentences
from chatpipe.report.findings import summarize
from chatpipe.report.notes_text import translated_note
from chatpipe.report.schema import Report
from chatpipe.report.verdict_text import (
    best_curve_sentences,
    best_sentences,
    missing_sentences,
    seed_sentences,
)

FURTHER = "Before comparing two figures"
MOST = 8
MOST_BEST = 3  # data sets


def first_lines(report: Report) -> list[str]:
    """Return what is missing, which variant is best, what it may have learnt by heart, how sure
    that is, what more data would give it, and the summary."""
    best = best_sentences(report)[:MOST_BEST]
    lines = [
        *map(translated_note, report.unfinished),
        *missing_sentences(report),
        *elsewhere_sentences(report),
        *best,
        *contamination_sentences(report),
        *whole_differences(report),
        *seed_sentences(report),
        *few_rows(report),
        *best_curve_sentences(report)[:MOST_BEST],
    ]
    return [*lines[: MOST - 1], summarize(report)]


def further_lines(report: Report) -> list[str]:
    """Return what else one has to know before comparing two figures."""
    first = {*first_lines(report)}
    lines = (
        *map(translated_note, report.unfinished),
        *elsewhere_sentences(report),
        *contamination_sentences(report),
        *statements(report),
        *best_curve_sentences(report),
    )
    return [line for line in lines if line not in first]

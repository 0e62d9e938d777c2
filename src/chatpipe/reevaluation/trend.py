"""The page of the history: a table of the newest figures and a chart of every held-out set."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from chatpipe.reevaluation import history
from chatpipe.reevaluation.gate import changes
from chatpipe.reevaluation.history import Entry, Figure
from chatpipe.report import drawing as draw
from chatpipe.report import formatting as show
from chatpipe.report import markdown_table
from chatpipe.report.html import environment
from chatpipe.report.markdown import escape
from chatpipe.store.paths import home

SHOWN = "perplexity"  # the metric that is drawn; the table has them all
READING = (
    "A check fails where a figure is worse than the accepted one by more than the tolerance and "
    "lies above its interval. The first figure is accepted by itself, a later one by "
    "`chatpipe accept`. A line breaks where the held-out rows, or the settings that they are "
    "scored with, changed: figures on both sides do not compare as they stand."
)
DAY_S = 86_400
LEAST_DAYS = 1 / 24  # of the time axis


def write_page(summary: Sequence[str]) -> Path:
    """Write index.html and index.md to `<home>/reports/reevaluation/`; return the page's path.

    `summary` is the result of the newest check, in sentences.
    """
    entries = history.read()
    target = home() / "reports" / "reevaluation"
    target.mkdir(parents=True, exist_ok=True)
    _replace(target / "index.md", render_markdown(entries, summary))
    _replace(target / "index.html", render_html(entries, summary))
    return target / "index.html"


def render_html(entries: Sequence[Entry], summary: Sequence[str]) -> str:
    """The self-contained page; entries are given oldest first."""
    return (
        environment()
        .get_template("trend.html.j2")
        .render(
            summary=summary,
            reading=READING,
            checked=_checked(entries),
            rows=trend_rows(entries),
            # charts escape their own text
            charts=[(name, Markup(chart)) for name, chart in trend_charts(entries)],
        )
    )


def render_markdown(entries: Sequence[Entry], summary: Sequence[str]) -> str:
    """The summary and the table of the newest figures."""
    parts = ["# Re-evaluation", *map(escape, summary), READING, markdown_table(trend_rows(entries))]
    return "\n\n".join(part for part in parts if part) + "\n"


def trend_rows(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """The figures of every variant's newest check beside the accepted ones."""
    return rows_of(history.newest(entries), history.last_accepted(entries))


def rows_of(entries: Sequence[Entry], accepted: Mapping[Figure, Entry]) -> list[dict[str, str]]:
    """Return a row for each figure, beside the accepted one."""
    return [_row(entry, accepted.get(entry.figure)) for entry in entries]


def trend_charts(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return name and chart of every held-out set."""
    return [(name, trend_chart(entries, name)) for name in _sets(entries)]


def trend_chart(entries: Iterable[Entry], heldout: str) -> str:
    """Every variant's perplexity on one set over the days; a dot where it was accepted."""
    chosen = [
        entry
        for entry in entries
        if entry.heldout == heldout and entry.metric == SHOWN and math.isfinite(entry.value)
    ]
    if not chosen:
        return ""
    start = chosen[0].checked_at
    values = [entry.value for entry in chosen]
    last = max(_days(start, entry.checked_at) for entry in chosen)
    plot = draw.Plot(
        draw.Box(64, 14, 620, 240),
        draw.ticks(0.0, max(last, LEAST_DAYS)),
        draw.ticks(min(values), max(values)),
    )
    body = draw.axes(plot, f"days since {start:%Y-%m-%d %H:%M} UTC", SHOWN)
    names = list(dict.fromkeys(entry.variant for entry in chosen))
    for index, name in enumerate(names):
        own = [entry for entry in chosen if entry.variant == name]
        body += _series(plot, index, start, own)
    legend, height = draw.legend(names, plot.box)
    words = (f"Perplexity on {heldout} over time", _in_words(chosen))
    key = "trend-" + "".join(letter if letter.isalnum() else "-" for letter in heldout)
    return draw.svg(key, (700, height), words, body + legend)


def _row(entry: Entry, accepted: Entry | None) -> dict[str, str]:
    current = show.perplexity(entry.value) + show.few_rows(entry.rows)
    current += show.interval(entry.low, entry.high)
    change, mark, notes = show.MISSING, show.MISSING, []
    if accepted:
        mark = show.perplexity(accepted.value) + show.interval(accepted.low, accepted.high)
        change = f"{show.fixed(100 * (entry.value / accepted.value - 1), 1, '+')}%"
        notes = _notes(entry, accepted)
    return {
        "Variant": entry.variant,
        "Held-out set": entry.heldout,
        "Measure": entry.metric,
        "Accepted": mark,
        "Now": current,
        "Change": change,
        "Since accepted": ", ".join(notes) or "nothing changed",
        "Checked": show.moment(entry.checked_at.isoformat()),
        "Scored": entry.scored,
    }


def _notes(entry: Entry, accepted: Entry) -> list[str]:
    """Return what has changed since the figure was accepted."""
    return [
        *(["another adapter"] if entry.model_digest != accepted.model_digest else []),
        *changes(entry, accepted),
        *(["other answers"] if entry.answers_digest != accepted.answers_digest else []),
        *([f"{entry.seen:,} rows seen in training"] if entry.seen else []),
    ]


def _series(plot: draw.Plot, index: int, start: datetime, entries: Sequence[Entry]) -> list[str]:
    """Draw a line for each run of checks measured alike, and a dot for each acceptance."""

    def point(entry: Entry) -> draw.Point:
        return (_days(start, entry.checked_at), entry.value)

    stretches: list[list[Entry]] = []
    for entry in (e for e in entries if e.record == "evaluated"):
        if stretches and not changes(entry, stretches[-1][-1]):
            stretches[-1].append(entry)
        else:
            stretches.append([entry])
    lines = [draw.curve(plot, index, [point(e) for e in stretch]) for stretch in stretches]
    return lines + [draw.dot(plot, index, point(e)) for e in entries if e.record == "accepted"]


def _days(start: datetime, moment: datetime) -> float:
    return (moment - start).total_seconds() / DAY_S


def _in_words(entries: Sequence[Entry]) -> str:
    last = {entry.variant: entry for entry in entries if entry.record == "evaluated"}
    return "; ".join(f"{name}: {show.perplexity(entry.value)}" for name, entry in last.items())


def _sets(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.heldout for entry in entries))


def _checked(entries: Iterable[Entry]) -> str:
    times = [entry.checked_at for entry in entries if entry.record == "evaluated"]
    return max(times).isoformat(timespec="seconds") if times else ""


def _replace(target: Path, text: str) -> None:
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    partial.write_text(text, "utf-8")
    partial.replace(target)

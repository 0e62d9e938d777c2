"""The report's tables on a terminal, and which log lines it shows."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from prefect.logging.handlers import PrefectConsoleHandler
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from chatpipe.errors import ChatpipeError
from chatpipe.formats.base import counted_reasons
from chatpipe.report import Report, bits_rows, headline_rows, ratings_text, transfer_rows
from chatpipe.report.first_lines import first_lines, further_lines
from chatpipe.report.names import with_short_names
from chatpipe.store.disk_errors import as_disk_error
from chatpipe.store.paths import home
from chatpipe.utils.quantities import count_of
from chatpipe.utils.visible_text import visible, visible_line

# Log lines of Prefect for every task and for its temporary server.
ORDINARY = (
    "Finished in state Completed",
    "Starting temporary server",
    "Stopping temporary server",
)
STOPPED = "Execution was aborted by"  # … an interrupt signal, a termination signal
FAILED = "Finished in state Failed("
# The columns that fit a narrow terminal; the report has them all.
HEADLINE = (
    "Model",
    "Trained on",
    "Own held-out perplexity",
    "Difference from base",
    "Training time",
)
RATINGS = ("Model", "Seeds", "Ratings", "Win rate", "Strength", "Correctness (1–5)")


def print_report(report: Report) -> None:
    """Print the headline, the transfer matrix, the summary and what limits comparisons."""
    console = Console()
    console.print()
    for title, rows in (
        ("Own held-out rows", [_headline_columns(row) for row in headline_rows(report)]),
        ("Transfer: response perplexity", transfer_rows(report)),
        ("Transfer: bits per byte of the response", bits_rows(report)),
    ):
        if rows:
            console.print(_table(title, _with_short_names(rows, report), console.width))
    for line in (*first_lines(report), *further_lines(report), *_dropped_rows(report)):
        _print_line(line, report, console)


def print_ratings(report: Report) -> None:
    """Print what people and judges say of the answers."""
    console = Console()
    for section in ratings_text.sections(report):
        if rows := _with_short_names(section.rows, report):
            if _least_width(rows) > console.width:
                rows = [{name: row[name] for name in RATINGS if name in row} for row in rows]
            console.print(_table(section.title, rows, console.width))
        for line in section.sentences:
            _print_line(line, report, console)
    if line := ratings_text.left_out(report):
        console.print(line, highlight=False, markup=False)


def _print_line(line: str, report: Report, console: Console) -> None:
    """Print a sentence with the names that the report's pages and `plan` have."""
    text = visible_line(with_short_names(line, report))
    console.print(text, highlight=False, markup=False)


def _with_short_names(rows: list[dict[str, str]], report: Report) -> list[dict[str, str]]:
    """Return the rows with the names that the report's pages and `plan` have."""

    def short(text: str) -> str:
        return with_short_names(text, report)

    return [{short(name): short(cell) for name, cell in row.items()} for row in rows]


def _dropped_rows(report: Report) -> Iterator[str]:
    """Yield a line for each data set with rows that were not used."""
    for account in report.accounts:
        if account.dropped:
            reasons = counted_reasons(account.dropped)
            dropped = sum(account.dropped.values())
            rows = f"{dropped:,} of {count_of(account.read, 'row')}"
            yield f"{account.name}: {rows} set aside: {reasons}"


def _headline_columns(row: dict[str, str]) -> dict[str, str]:
    return {name: row[name] for name in HEADLINE if name in row}


def _table(title: str, rows: list[dict[str, str]], width: int) -> Table:
    # Long names wrap: cut short, two that begin alike would look the same. Where there is room for
    # whole names, the other columns wrap, at their blanks.
    headers = [Column(Text(visible(header)), overflow="fold") for header in rows[0]]
    headers[0].no_wrap = _least_width(rows) <= width
    table = Table(*headers, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row.values()))
    return table


def _least_width(rows: list[dict[str, str]]) -> int:
    """Return how wide a table of these is if its first column does not wrap and others do."""
    first, *others = rows[0]
    names = [first, *(row[first] for row in rows)]
    words = [
        [w for text in (name, *(r[name] for r in rows)) for w in text.split()] for name in others
    ]
    widths = [max(map(cell_len, map(visible, texts)), default=0) for texts in (names, *words)]
    return sum(widths) + 3 * len(widths) + 1  # with the lines between columns


def quiet_console() -> None:
    """Show our own log lines, cached steps and failures on the terminal, and no others."""
    logger: logging.Logger | logging.PlaceHolder
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", []):
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_is_shown)
    # For Prefect's temporary server, which may log unclosed connections when it ends.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _is_shown(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    if text.startswith("Finished in state Cached"):
        record.msg, record.args = f"{record.__dict__.get('task_run_name')}: cached", None
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ChatpipeError) or (error and as_disk_error(error, home())):
        return False  # the command prints its sentence at its end
    if STOPPED in text or text.startswith(FAILED):
        return False  # the same
    record.exc_info = record.exc_text = None  # the traceback is in a file that the message names
    ordinary = text.startswith(ORDINARY)
    return record.levelno >= logging.WARNING or not ordinary

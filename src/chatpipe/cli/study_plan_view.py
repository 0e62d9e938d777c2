"""The plan of a study on a terminal: its cells, and what all of them need."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chatpipe.config.run_names import short_cell_name
from chatpipe.planning.result import Plan
from chatpipe.planning.study_plan import StudyPlan
from chatpipe.planning.summary import NOT_KNOWN
from chatpipe.utils.quantities import count_of, in_bytes, in_time


def print_study_plan(plan: StudyPlan, console: Console | None = None) -> None:
    """Print one line for each cell, the sums, and each note once."""
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("Variant", overflow="fold")
    for header in ("Training", "Tokens", "Time", "Memory"):
        table.add_column(header, no_wrap=True)
    for cell in plan.plans:
        table.add_row(*_row(cell))
    notes = dict.fromkeys(note for cell in plan.plans for note in cell.notes)
    for line in (
        f"\n[bold]{escape(plan.study)}[/]: {count_of(len(plan.plans), 'variant')}",
        table,
        *_sums(plan),
        *(f"• {escape(note)}" for note in notes),
    ):
        console.print(line, highlight=False)


def _row(cell: Plan) -> tuple[str, ...]:
    if cell.trained:
        return escape(short_cell_name(cell.variant)), "in the store", "", "", ""
    return (
        escape(short_cell_name(cell.variant)),
        "to train",
        f"{cell.duration.tokens:,}" if cell.duration else NOT_KNOWN,
        in_time(cell.duration.seconds) if cell.duration else NOT_KNOWN,
        in_bytes(cell.memory.total) if cell.memory else NOT_KNOWN,
    )


def _sums(plan: StudyPlan) -> Iterator[str]:
    count = len(plan.plans) - plan.trained
    if not count:
        yield "\nEvery adapter is in the store: nothing to train."
        return
    tokens = NOT_KNOWN if plan.tokens is None else f"{plan.tokens:,}"
    time = NOT_KNOWN if plan.seconds is None else in_time(plan.seconds)
    memory = NOT_KNOWN if plan.memory_bytes is None else in_bytes(plan.memory_bytes)
    yield (
        f"\n{count_of(count, 'training')} ({plan.trained} in the store already): {tokens} tokens, "
        f"{time} one after another, {memory} of memory, {in_bytes(plan.disk_bytes)} on disk."
    )

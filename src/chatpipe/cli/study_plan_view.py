"""The plan of a study on a terminal: its cells, and what all of them need."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chatpipe.config.run_names import short_cell_name
from chatpipe.data.normalize import RowAccount
from chatpipe.formats.base import counted_reasons
from chatpipe.planning.group_plan import TrainingGroup
from chatpipe.planning.result import Plan
from chatpipe.planning.study_plan import Cost, StudyPlan
from chatpipe.planning.summary import NOT_KNOWN
from chatpipe.utils.quantities import count_of, in_bytes, in_time
from chatpipe.utils.sentences import listed

MOST_NAMES = 8  # of a group


def print_study_plan(plan: StudyPlan, console: Console | None = None) -> None:
    """Print one line for each cell, the sums, and each note once."""
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("Variant", overflow="fold")
    for header in ("Training", "Tokens", "Time", "Memory"):
        table.add_column(header, no_wrap=True)
    for cell in plan.plans:
        table.add_row(*_row(cell))
    notes = dict.fromkeys([*plan.notes, *(note for cell in plan.plans for note in cell.notes)])
    for line in (
        f"\n[bold]{escape(plan.study)}[/]: {count_of(len(plan.plans), 'variant')}",
        table,
        *_rows_read(plan),
        *_sums(plan),
        *map(_group, plan.groups),
        *(f"• {escape(note)}" for note in notes),
    ):
        console.print(line, highlight=False)


def _rows_read(plan: StudyPlan) -> Iterator[str]:
    """A line for each data set whose rows are here, and for each way in which they are merged and
    rows dropped: how many were read, and what became of them."""
    lines: dict[str, None] = {}
    for cell in plan.plans:
        for dataset in cell.data.datasets:
            if dataset.account:
                lines[_rows_line(f"Data set {dataset.name}", dataset.account)] = None
    for cell in plan.plans:
        if cell.data.merged and cell.data.merged.dropped:
            names = " + ".join(dataset.name for dataset in cell.data.datasets)
            lines[_rows_line(f"Merged {names}", cell.data.merged)] = None
    if lines:
        yield ""
    yield from map(escape, lines)


def _rows_line(subject: str, account: RowAccount) -> str:
    dropped = counted_reasons(account.dropped)
    end = f", dropped: {dropped}." if dropped else "."
    return f"{subject}: {count_of(account.read, 'row')} read, {account.kept:,} kept{end}"


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
    stored = f"{plan.trained} of {len(plan.plans)} adapters are in the store"
    if not plan.total.trainings:
        yield f"\n{stored}: nothing to train."
        return
    yield f"\n{stored}. To come: {_cost(plan.total)}."
    if plan.limit is not None:
        yield f"With --limit {plan.limit}: {_cost(plan.now)}."
        yield f"Left for later: {_cost(plan.left) if plan.left.trainings else 'nothing'}."


def _group(group: TrainingGroup) -> str:
    names = listed([short_cell_name(name) for name in group.variants], MOST_NAMES)
    tokens = NOT_KNOWN if group.tokens is None else f"{group.tokens:,}"
    time = NOT_KNOWN if group.seconds is None else in_time(group.seconds)
    if group.seconds is not None and group.is_upper_bound:
        time = f"at most {time}"
    memory = group.memory
    peak = NOT_KNOWN
    if memory:
        peak = f"{in_bytes(memory.total)} with {memory.batch.tokens:,} tokens at once"
    return f"Trained together: {escape(names)}: tokens {tokens}, time {time}, memory {peak}."


def _cost(cost: Cost) -> str:
    tokens = NOT_KNOWN if cost.tokens is None else f"{cost.tokens:,}"
    time = NOT_KNOWN if cost.seconds is None else in_time(cost.seconds)
    memory = NOT_KNOWN if cost.memory_bytes is None else in_bytes(cost.memory_bytes)
    parts = [
        count_of(cost.trainings, "training"),
        f"tokens {tokens}",
        f"time {time} (trainings alone, one after another)",
        f"memory {memory}",
        f"disk {in_bytes(cost.disk_bytes)}",
    ]
    if cost.download_bytes != 0:
        unknown = cost.download_bytes is None
        parts.append(f"download {NOT_KNOWN if unknown else in_bytes(cost.download_bytes or 0)}")
    return ", ".join(parts)

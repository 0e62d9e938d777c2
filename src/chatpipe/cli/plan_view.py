"""A plan on a terminal: rows, tokens, cost, memory, and which artifacts exist."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from chatpipe.cli.preview import in_colour, left_out_line, preview_lines
from chatpipe.data.normalize import RowAccount
from chatpipe.data.turn_counts import TurnAccount
from chatpipe.planning.result import Plan
from chatpipe.planning.steps import PlannedStep
from chatpipe.planning.summary import cost_rows, trained_rows
from chatpipe.planning.token_stats import Tokens
from chatpipe.utils.quantities import count_of, in_bytes, in_count, in_per_cent, rows_are

EIGHTHS = " ▏▎▍▌▋▊▉█"
LONGEST_PART = 600  # characters of a row's template or reply; `chatpipe preview` shows all
WIDEST = 40  # characters of the longest bar
STATES = {"exists": "exists", "make": "to make", "download": "to download"}


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print the plan: rows, tokens, training, memory, artifacts, notes."""
    console = console or Console()
    sets = " + ".join(dataset.name for dataset in plan.data.datasets)
    lines: list[RenderableType] = [
        f"\n[bold]{plan.variant}[/]: {escape(plan.base_model)} on {sets}"
    ]
    lines += _rows(plan)
    if plan.tokens:
        lines += token_lines(plan.tokens, console.width)
    if plan.preview:
        lines.append(_title("What is learnt"))
        lines += preview_lines(plan.preview, in_colour(console), LONGEST_PART)
    lines += _cost(plan)
    lines += _memory(plan)
    lines += [_title("Artifacts"), _steps(plan.steps)]
    if plan.notes:
        lines.append(_title("Notes"))
        lines += [f"• {escape(note)}" for note in plan.notes]
    for line in lines:
        console.print(line, highlight=False)


def token_lines(tokens: Tokens, width: int) -> Iterator[str]:
    """Yield a histogram of token lengths, `width` characters wide, and what is trained of them."""
    yield _title(
        f"Tokens per row: {tokens.shortest:,} to {tokens.longest:,}, median {tokens.median:g}"
    )
    most = max(bar.rows for bar in tokens.lengths)
    for bar in tokens.lengths:
        drawing = draw_bar(bar.rows / most, min(WIDEST, width - 24))
        yield f"{bar.above + 1:>6}–{bar.upto:<6} {drawing} {bar.rows:,}"
    replies = count_of(tokens.scored_replies, "reply", "replies")
    yield (
        f"{tokens.trained_tokens:,} of {count_of(tokens.tokens, 'token')} are trained "
        f"({in_per_cent(tokens.trained_share, 1)}%), of {replies} in "
        f"{count_of(tokens.rows, 'row')}; the last is {tokens.end!r} in {tokens.eos_rows:,} of "
        "them."
    )
    if tokens.cut_rows:
        yield (
            f"{rows_are(tokens.cut_rows)} cut, by {count_of(tokens.cut_tokens, 'token')} together, "
            f"{tokens.most_cut:,} at most."
        )
    for reason, rows in tokens.left_out.items():
        yield left_out_line(reason, rows)


def draw_bar(share: float, width: int) -> str:
    """Return a bar of block characters, in eighths of a character; not empty unless share is 0."""
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return "█" * full + (EIGHTHS[rest] if rest else "")


def _rows(plan: Plan) -> Iterator[RenderableType]:
    table = _table("Data set", "Read", "Kept", "Dropped", "Flagged", *_turns_header(plan))
    for dataset in plan.data.datasets:
        if dataset.account:
            table.add_row(dataset.name, *_account(dataset.account))
        else:
            expected = f"{dataset.expected_rows:,} expected" if dataset.expected_rows else "unknown"
            table.add_row(dataset.name, expected)
    merged = plan.data.merged
    if merged and (len(plan.data.datasets) > 1 or merged.dropped):
        table.add_row("merged", *_account(merged))
    train = in_count(trained_rows(plan), plan.data.exact)
    heldout = in_count(plan.data.heldout_rows, plan.data.exact)
    counts = f"{train} to train on, {heldout} held out."
    if plan.elsewhere:
        counts = f"{heldout} held out, on which it is scored; nothing is trained on the others."
    yield from (_title("Rows"), table, counts)


def _account(account: RowAccount) -> tuple[str, ...]:
    reasons = (account.dropped, account.flagged)
    texts = ["\n".join(f"{rows:,} {reason}" for reason, rows in c.items()) for c in reasons]
    row = (f"{account.read:,}", f"{account.kept:,}", *(text or "0" for text in texts))
    return (*row, _turns(account.turns)) if account.turns else row


def _turns_header(plan: Plan) -> tuple[str, ...]:
    """A column for turns, where rows are conversations."""
    accounts = [dataset.account for dataset in plan.data.datasets]
    return ("Turns",) if any(account and account.turns for account in accounts) else ()


def _turns(turns: TurnAccount) -> str:
    replies = count_of(turns.replies, "reply", "replies")
    return f"{turns.read:,} read\n{turns.kept:,} kept\n{replies}"


def _cost(plan: Plan) -> Iterator[RenderableType]:
    done = ", done: the adapter is in the store" if plan.trained else ""
    yield _title("Training" + (": it was trained elsewhere" if plan.elsewhere else done))
    table = _table(show_header=False)
    for name, value in cost_rows(plan):
        table.add_row(name, value)
    yield table
    if plan.duration:
        yield escape(f"{plan.duration.tokens_per_s:,.0f} tokens/s: {plan.duration.basis}.")


def _memory(plan: Plan) -> Iterator[RenderableType]:
    if plan.memory is None:
        return
    batch, free = plan.memory.batch, plan.device.free_bytes
    scored = f", {batch.scored:,} of them scored" if plan.tokens else ""
    yield _title(f"Memory: {batch.tokens:,} tokens at once{scored}")
    if plan.shapes and batch.checkpoint_every:
        layers = plan.shapes.layers
        yield f"{batch.checkpointed_layers(layers)} of {layers} layers are computed again."
    table = _table(show_header=False)
    for name, size in plan.memory.parts.items():
        table.add_row(name, in_bytes(size))
    table.add_row("[bold]together", f"[bold]{in_bytes(plan.memory.total)}")
    yield table
    if free is not None:
        yield f"{in_bytes(free)} are free on {escape(plan.device.name)}."


def _steps(steps: tuple[PlannedStep, ...]) -> Table:
    table = _table("Kind", "Of", "State", "Size")
    for step in steps:
        size = in_bytes(step.bytes) if step.bytes is not None else ""
        table.add_row(step.kind, escape(step.what), STATES[step.state], size)
    return table


def _title(text: str) -> str:
    return f"\n[bold]{escape(text)}[/]"


def _table(*columns: str, show_header: bool = True) -> Table:
    return Table(*columns, show_header=show_header, header_style="", box=None, pad_edge=False)

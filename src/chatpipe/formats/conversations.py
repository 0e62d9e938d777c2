"""Conversations → examples: those of a whole part of a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from chatpipe.formats.base import HISTORY, normalized
from chatpipe.formats.first_exchange import first_exchange
from chatpipe.formats.turn_settings import TurnSettings
from chatpipe.formats.turns import Turn
from chatpipe.formats.whole_conversation import Example, joined_texts, whole_conversation

Conversation = Sequence[Turn | None]


def conversations_normalized(
    rows: Sequence[Conversation | None],
    settings: TurnSettings,
    systems: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Return the table of `Format.normalize` for these conversations.

    Args:
        rows: the turns of each; None where it could not be read.
        systems: the text of the column `system`, which stands before system turns.
    """
    # Turns are few and ragged: a row's are looked at in Python, the rest is columnar.
    examples = examples_of(rows, settings)
    texts = [None] * len(rows) if systems is None else systems.to_pylist()
    counts = [
        sum(turn is not None for turn in row or ()) + bool(text)
        for row, text in zip(rows, texts, strict=True)
    ]
    return normalized(
        pa.array([example.instruction for example in examples], pa.string()),
        pa.nulls(len(examples), pa.string()),
        pa.array([example.output for example in examples], pa.string()),
        reason=pa.array([example.reason for example in examples], pa.string()),
        flag=pa.array([example.flag for example in examples], pa.string()),
        system=system_texts(examples, texts),
        history=history_column(examples),
        turns=pa.array(counts, pa.int64()),
    )


def examples_of(rows: Iterable[Conversation | None], settings: TurnSettings) -> list[Example]:
    """Return what each conversation becomes."""
    example = whole_conversation if settings.turns == "all" else first_exchange
    return [example(list(row or ()), settings.repeated_roles) for row in rows]


def system_texts(examples: Sequence[Example], texts: Sequence[str | None]) -> pa.Array:
    """Return the system text of each example, after that of its column; a text that is in both is
    there once."""
    both = (
        example.system if text == example.system else joined_texts([text, example.system])
        for example, text in zip(examples, texts, strict=True)
    )
    return pa.array(both, pa.string())


def history_column(examples: Sequence[Example]) -> pa.Array:
    """Return the earlier turns of each example, null where it has none."""
    if not any(example.history for example in examples):
        return pa.nulls(len(examples), HISTORY)
    rows = [
        [{"role": role, "content": content} for role, content in example.history]
        if example.history
        else None
        for example in examples
    ]
    return pa.array(rows, HISTORY)

"""Alpaca rows: instruction, input, output, kept as they are.

A row: {"instruction": "Name a prime.", "input": "", "output": "Seven."}

A row may also have a `system` text, and a `history` of earlier turns: pairs of a question and its
answer, or turns as in the format `messages`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.formats import turn_reasons
from chatpipe.formats.base import FLAGS_BETWEEN, Column, Format, normalized
from chatpipe.formats.conversations import (
    Conversation,
    examples_of,
    history_column,
    system_texts,
)
from chatpipe.formats.first_exchange import has_exchange
from chatpipe.formats.turn_settings import TurnSettings
from chatpipe.formats.turns import ASSISTANT, TURNS, USER, history_from_value, plain_turn
from chatpipe.formats.whole_conversation import Example
from chatpipe.utils.text import has_byte

NOINPUT = "<noinput> marker"


def _normalize(table: pa.Table, settings: TurnSettings) -> pa.Table:
    flag = None
    if has_byte(table["input"], ord("<")):
        texts = pc.fill_null(table["input"], "")
        marked = pc.match_substring(texts, "<noinput>", ignore_case=True)
        flag = pc.if_else(marked, NOINPUT, pa.scalar(None, pa.string()))
    texts = [table[name] for name in ("instruction", "input", "output")]
    systems, history = table["system"], table["history"]
    if history.null_count == table.num_rows:
        if systems.null_count == table.num_rows:
            return normalized(*texts, flag=flag)
        turns = pc.add(2, pc.cast(pc.is_valid(systems), pa.int64()))
        return normalized(*texts, flag=flag, system=systems, turns=turns)
    rows = history.to_pylist()
    examples = _examples(rows, table, settings)
    # An input belongs to the row's own question.
    own = pa.array([settings.turns == "all" or not has_exchange(row or ()) for row in rows])
    flags = [example.flag for example in examples]
    marks = [None] * len(flags) if flag is None else flag.to_pylist()
    return normalized(
        pa.array([example.instruction for example in examples], pa.string()),
        pc.if_else(own, table["input"], ""),
        pa.array([example.output for example in examples], pa.string()),
        reason=pa.array([example.reason for example in examples], pa.string()),
        flag=pa.array(map(_both_flags, marks, flags), pa.string()),
        system=system_texts(examples, systems.to_pylist()),
        history=history_column(examples),
        turns=_turn_counts(rows, systems),
    )


def _examples(
    rows: Sequence[Conversation | None], table: pa.Table, settings: TurnSettings
) -> list[Example]:
    """What the rows become; a row without a history is as it would be without the column."""
    questions, answers = (table[name].to_pylist() for name in ("instruction", "output"))
    conversations = [
        [*(row or ()), plain_turn(USER, question), plain_turn(ASSISTANT, answer)]
        for row, question, answer in zip(rows, questions, answers, strict=True)
    ]
    return examples_of(conversations, settings)


def _turn_counts(rows: Sequence[Conversation | None], systems: pa.ChunkedArray) -> pa.Array:
    """How many turns each row has, its own two and the system text among them."""
    earlier = [sum(turn is not None for turn in row or ()) for row in rows]
    own = pc.add(2, pc.cast(pc.is_valid(systems), pa.int64()))
    return pc.add(pa.array(earlier, pa.int64()), own.combine_chunks())


def _both_flags(*flags: str | None) -> str | None:
    return FLAGS_BETWEEN.join(flag for flag in flags if flag) or None


FORMAT = Format(
    columns={
        "instruction": Column(pa.string()),
        "input": Column(pa.string(), required=False),
        "output": Column(pa.string()),
        "system": Column(pa.string(), required=False),
        "history": Column(TURNS, required=False, from_value=history_from_value),
    },
    normalize=_normalize,
    unusable=turn_reasons.UNUSABLE,
)

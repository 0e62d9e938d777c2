"""A text and what follows it: prompt → instruction, completion → output.

A row: {"prompt": "The capital of France is", "completion": " Paris."}

Both may be lists of turns, as in the format `messages`: then a row is the one conversation of both.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from chatpipe.formats import turn_reasons
from chatpipe.formats.base import Column, Format, normalized
from chatpipe.formats.conversations import conversations_normalized
from chatpipe.formats.turn_settings import TurnSettings
from chatpipe.formats.turns import ASSISTANT, TURNS, USER, Turn, turns_from_value


def _normalize(table: pa.Table, settings: TurnSettings) -> pa.Table:
    no_input = pa.nulls(table.num_rows, pa.string())
    return normalized(table["prompt"], no_input, table["completion"])


def _normalize_turns(table: pa.Table, settings: TurnSettings) -> pa.Table:
    pairs = zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True)
    rows = [[*(prompt or ()), *(completion or ())] for prompt, completion in pairs]
    return conversations_normalized(rows, settings)


def _prompt_turns(value: Any) -> list[Turn | None] | None:
    return _turns(value, USER)


def _completion_turns(value: Any) -> list[Turn | None] | None:
    return _turns(value, ASSISTANT)


def _turns(value: Any, role: str) -> list[Turn | None] | None:
    """The turns of a list; text is one turn of that role."""
    return turns_from_value([{"role": role, "content": value}] if isinstance(value, str) else value)


TURNS_FORMAT = Format(
    columns={
        "prompt": Column(TURNS, from_value=_prompt_turns),
        "completion": Column(TURNS, from_value=_completion_turns),
    },
    normalize=_normalize_turns,
    unusable=turn_reasons.UNUSABLE,
)
FORMAT = Format(
    columns={"prompt": Column(pa.string()), "completion": Column(pa.string())},
    normalize=_normalize,
    unusable=turn_reasons.UNUSABLE,
    as_turns=TURNS_FORMAT,
    version=2,
)

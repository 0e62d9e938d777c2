"""Chat messages: the last user turn → instruction, the answer to it → output.

A row: {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

Turns before these are the history, the system turn (or the column `system`) the system text.
"""

from __future__ import annotations

import pyarrow as pa

from chatpipe.formats import turn_reasons
from chatpipe.formats.base import Column, Format
from chatpipe.formats.conversations import conversations_normalized
from chatpipe.formats.turn_settings import TurnSettings
from chatpipe.formats.turns import TURNS, turns_from_value

VERSION = 4  # of this format and of sharegpt, whose turns are the same


def format_of_turns(column: str) -> Format:
    """Return the format whose rows have their turns in that column."""

    def normalize(table: pa.Table, settings: TurnSettings) -> pa.Table:
        return conversations_normalized(table[column].to_pylist(), settings, table["system"])

    return Format(
        columns={
            column: Column(TURNS, from_value=turns_from_value),
            "system": Column(pa.string(), required=False),
        },
        normalize=normalize,
        unusable=turn_reasons.UNUSABLE,
        version=VERSION,
    )


FORMAT = format_of_turns("messages")

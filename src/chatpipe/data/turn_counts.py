"""How many turns conversations have, and how many of them become part of an example."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

COLUMN = "turns"  # of a normalized table: how many turns each row has


class TurnAccount(BaseModel):
    """Turns of conversations, system texts among them. read: of all rows; kept: those that are in
    an example; replies: those of these that are the assistant's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: int
    kept: int
    replies: int


class TurnCounts:
    """Turns that were read and kept, counted part by part."""

    def __init__(self) -> None:
        self._are_conversations = False
        self._read = self._kept = self._replies = 0

    def add_normalized(self, table: pa.Table, usable: pa.Table) -> None:
        """Count the turns of a format's table; `usable` are those of its rows that are kept."""
        if COLUMN in table.column_names:
            self._are_conversations = True
            read = int(pc.sum(table[COLUMN]).as_py() or 0)
        else:
            read = 2 * table.num_rows
        self.add(read, [usable])

    def add(self, read: int, kept: Iterable[pa.Table]) -> None:
        """Count so many turns that were read, and those of the examples that are kept."""
        self._read += read
        for table in kept:
            self._kept += count_turns(table)
            self._replies += _count_replies(table)

    def account(self, are_conversations: bool = False) -> TurnAccount | None:
        """Return what was counted; None where no row is a conversation."""
        if not (are_conversations or self._are_conversations):
            return None
        return TurnAccount(read=self._read, kept=self._kept, replies=self._replies)


def count_turns(table: pa.Table) -> int:
    """Return how many turns the examples have: the system text, the history, and the last two."""
    return int(3 * table.num_rows - table["system"].null_count) + _earlier(table)


def _count_replies(table: pa.Table) -> int:
    return int(table.num_rows) + _earlier(table) // 2


def _earlier(table: pa.Table) -> int:
    return int(pc.sum(pc.list_value_length(table["history"])).as_py() or 0)

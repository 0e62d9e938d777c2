"""What a row format is: the columns it needs, and how they become instruction, input, output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.utils.text import is_blank

EMPTY_OUTPUT = "empty output"
EMPTY_INSTRUCTION = "empty instruction"
NOT_TEXT = "not text"
UNDECODABLE = "undecodable"
RAGGED = "more or fewer cells than the header"
KEY_TWICE = "a key is there twice"
READ_REASON = "read_reason"  # the column that says why a row could not be read
# Several flags of one row are one text, joined by this.
FLAGS_BETWEEN = "; "


@dataclass(frozen=True)
class Column:
    """A column that a format reads, and its Arrow type. `from_value` turns what a file has there
    (as Python values) into values of that type, and gives None for what it cannot turn."""

    type: pa.DataType
    required: bool = True
    from_value: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Format:
    """A layout of rows. `normalize` takes a table of `columns` and gives a table of
    instruction, input, output (strings), `reason` (why the row is dropped, or null) and
    `flag` (what is odd about a row that is kept, or null).

    `unusable` are the reasons for which a row has nothing to train on, whatever the split.
    `version` is raised when the same rows become other examples, or others are dropped.
    """

    columns: dict[str, Column]
    normalize: Callable[[pa.Table], pa.Table]
    unusable: frozenset[str] = frozenset()
    version: int = 1

    def required(self) -> list[str]:
        """The columns without which a file is not of this format."""
        return [name for name, column in self.columns.items() if column.required]


def counted_reasons(counts: dict[str, int], details: dict[str, str]) -> str:
    """Rows by reason, with what is known of each."""
    return ", ".join(
        f"{rows:,} {reason}" + (f" ({details[reason]})" if reason in details else "")
        for reason, rows in counts.items()
    )


def normalized(
    instruction: pa.ChunkedArray | pa.Array,
    input_text: pa.ChunkedArray | pa.Array,
    output: pa.ChunkedArray | pa.Array,
    reason: pa.ChunkedArray | pa.Array | None = None,
    flag: pa.ChunkedArray | pa.Array | None = None,
) -> pa.Table:
    """The three texts as they are, with a reason beside every row that cannot be trained on. Text
    of which nothing can be seen is empty."""
    texts = [_filled(column) for column in (instruction, input_text, output)]
    blank = [is_blank(text) for text in texts]
    texts = [_emptied(text, empty) for text, empty in zip(texts, blank, strict=True)]
    fault = pa.nulls(len(texts[0]), pa.string())
    for places, reason_of_it in ((blank[2], EMPTY_OUTPUT), (blank[0], EMPTY_INSTRUCTION)):
        if places.any():
            fault = pc.if_else(pa.array(places), reason_of_it, fault)
    if reason is not None:
        fault = pc.coalesce(reason, fault)
    nothing = pa.nulls(len(fault), pa.string())
    names = ["instruction", "input", "output", "reason", "flag"]
    return pa.table([*texts, fault, nothing if flag is None else flag], names=names)


def _filled(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column as one array of strings, the empty one in place of null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return (pc.fill_null(column, "") if column.null_count else column).cast(pa.string())


def _emptied(texts: pa.Array, blank: npt.NDArray[np.bool_]) -> pa.Array:
    """The texts, with those that are blank made empty; most of these are already."""
    lengths = pc.binary_length(texts).to_numpy()
    return pc.if_else(pa.array(blank), "", texts) if lengths[blank].any() else texts

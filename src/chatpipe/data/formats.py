"""What a row format is: the columns it needs, and how they become instruction, input, output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

EMPTY_OUTPUT = "empty output"
EMPTY_INSTRUCTION = "empty instruction"
NOT_TEXT = "not text"
UNDECODABLE = "undecodable"


@dataclass(frozen=True)
class Column:
    """A column that a format reads, and its Arrow type."""

    type: pa.DataType
    required: bool = True


@dataclass(frozen=True)
class Format:
    """A layout of rows. `normalize` takes a table of `columns` and gives a table of
    instruction, input, output (strings), `reason` (why the row is dropped, or null) and
    `flag` (what is odd about a row that is kept, or null)."""

    columns: dict[str, Column]
    normalize: Callable[[pa.Table], pa.Table]


def normalized(
    instruction: pa.ChunkedArray | pa.Array,
    input_text: pa.ChunkedArray | pa.Array,
    output: pa.ChunkedArray | pa.Array,
    reason: pa.ChunkedArray | pa.Array | None = None,
    flag: pa.ChunkedArray | pa.Array | None = None,
) -> pa.Table:
    """Trim the three texts and give every row that cannot be trained on its reason."""
    texts = [
        pc.utf8_trim_whitespace(pc.fill_null(column, "").cast(pa.string()))
        for column in (instruction, input_text, output)
    ]
    found = pc.if_else(pc.equal(texts[2], ""), EMPTY_OUTPUT, pa.scalar(None, pa.string()))
    found = pc.if_else(pc.equal(texts[0], ""), EMPTY_INSTRUCTION, found)
    if reason is not None:
        found = pc.coalesce(reason, found)
    nothing = pa.nulls(len(found), pa.string())
    names = ["instruction", "input", "output", "reason", "flag"]
    return pa.table([*texts, found, nothing if flag is None else flag], names=names)

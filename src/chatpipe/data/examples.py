"""The Parquet files of examples: their columns.

Files of earlier versions have no columns for conversations; a column that is missing is null.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chatpipe.data.parquet_rows import batches
from chatpipe.formats.base import HISTORY

CONVERSATION = (pa.field("system", pa.string()), pa.field("history", HISTORY))
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("instruction", "input", "output", "source", "id")),
        *CONVERSATION,
    ]
)
DROPPED_SCHEMA = (
    SCHEMA.append(pa.field("reason", pa.string()))
    .append(pa.field("file", pa.string()))
    .append(pa.field("row", pa.int64()))
)


def stored_examples(path: Path) -> Iterator[pa.Table]:
    """A file's rows in tables of bounded size, which have the columns for conversations."""
    for batch in batches(path):
        yield with_conversations(pa.Table.from_batches([batch]))


def with_conversations(table: pa.Table) -> pa.Table:
    """Return the table with the columns of conversations, null where it has none."""
    for field in CONVERSATION:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def placed(table: pa.Table, rows: npt.NDArray[np.int64], file: str | None) -> pa.Table:
    """Return the table with the file and the row numbers that its rows come from."""
    files = pa.repeat(pa.scalar(file, pa.string()), len(rows))
    return table.append_column("file", files).append_column("row", pa.array(rows, pa.int64()))

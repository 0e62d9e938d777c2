"""Rows of Parquet → tables: text in one type, and a reason beside what is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from chatpipe.data.columns import ColumnNames, described_type, printable
from chatpipe.data.nested import column_at
from chatpipe.formats.base import NOT_TEXT, READ_REASON

BATCH_ROWS = 1 << 13
BATCH_BYTES = 1 << 24


class ParquetRows:
    """Turns batches into tables, and gathers in `details`, by reason, what a row has that cannot
    be used."""

    def __init__(self, columns: ColumnNames, details: dict[str, str]) -> None:
        self.columns = columns
        self.details = details

    def table(self, table: pa.Table, names: list[str]) -> pa.Table:
        """The batch with broken text as nulls, and reasons as rows of JSON have them."""
        reason = pa.nulls(table.num_rows, pa.string())
        arrays = {}
        for name in names:
            values = column_at(table, name)
            column, broken = checked_text(textual(values))
            if broken.true_count:
                self.details.setdefault(NOT_TEXT, f"{printable(name)} is no UTF-8 text")
            convert = self.columns.converted.get(name)
            # A format may also take text for turns.
            if convert and (pa.types.is_nested(column.type) or convert("") is not None):
                converted = [convert(value) for value in column.to_pylist()]
                column = pa.array(converted, self.columns.types[name])
            if name in self.columns.required:
                self._note_null(name, values, column)
                broken = pc.or_(broken, column.is_null())
            reason = pc.if_else(broken, NOT_TEXT, reason)
            arrays[name] = column
        return pa.table({**arrays, READ_REASON: reason})

    def _note_null(self, name: str, before: pa.ChunkedArray, column: pa.ChunkedArray) -> None:
        """Why values of a column that must be there are null, as a detail."""
        if not column.null_count:
            return
        if before.null_count == column.null_count:
            detail = f"{printable(name)} is null or missing"
        else:
            detail = f"{printable(name)} is not {described_type(self.columns.types[name])}"
        self.details.setdefault(NOT_TEXT, detail)


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A Parquet file's rows, those columns of them, in pieces of bounded size. ArrowInvalid where
    there are others than the file says."""
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        about = file.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        rows = BATCH_BYTES * about.num_rows // max(1, size)  # of rows as long as these are
        read = 0
        for batch in file.iter_batches(min(BATCH_ROWS, max(1, rows)), columns=columns):
            read += batch.num_rows
            yield batch
        if columns != [] and read != about.num_rows:
            raise pa.ArrowInvalid(f"its footer says {about.num_rows} rows, {read} were read")


def is_text(schema: pa.Schema, name: str) -> bool:
    """Whether the column is of text, in any type."""
    return name in schema.names and pa.types.is_string(textual_type(schema.field(name).type))


def textual(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of any kind of text as plain strings; other columns as they are."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    return column


def textual_type(kind: pa.DataType) -> pa.DataType:
    """The type of plain strings for every type of text; others as they are."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return pa.string() if is_text else kind


def checked_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.Array]:
    """(the column with null in place of what is no UTF-8, where that was): a reader of Parquet
    takes the bytes as they are."""
    broken = np.zeros(len(column), np.bool_)
    start = 0
    for chunk in column.chunks:
        try:
            chunk.validate(full=True)
        except pa.ArrowInvalid:
            broken[start : start + len(chunk)] = [
                not _valid(chunk.take(pa.array([place]))) for place in range(len(chunk))
            ]
        start += len(chunk)
    if broken.any():
        places = np.arange(len(column))
        column = column.take(pa.array(places, mask=broken))
    return column, pa.array(broken)


def _valid(cell: pa.Array) -> bool:
    try:
        cell.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True

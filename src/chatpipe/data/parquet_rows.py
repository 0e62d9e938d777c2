"""Columns of Parquet: text in one type, and what of it is no text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


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

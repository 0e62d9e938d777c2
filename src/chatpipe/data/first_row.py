"""The first row of a file: of what kind its cells are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet

from chatpipe.data.json_values import decoded, is_list, list_items
from chatpipe.data.opening import READ_ERRORS, content_kind, head, opened
from chatpipe.errors import DataError

LONGEST_LINE = 1 << 28


def first_row(path: Path) -> dict[str, Any]:
    """Return the first row of a JSON or Parquet file; empty where it is no row, or none can be
    read, which is for others to say. CSV has texts alone."""
    try:
        kind = content_kind(path)
        row = None if kind == "csv" else _parquet(path) if kind == "parquet" else _json(path)
    except (*READ_ERRORS, DataError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def _parquet(path: Path) -> Any:
    with pyarrow.parquet.ParquetFile(path) as file:
        batch = next(file.iter_batches(1), None)
    return batch.to_pylist()[0] if batch is not None and batch.num_rows else None


def _json(path: Path) -> Any:
    with opened(path) as file:
        if is_list(head(path)):
            return next(list_items(io.TextIOWrapper(file, "utf-8")), None)
        while line := file.readline(LONGEST_LINE):
            if line.strip():
                return decoded(line)
    return None

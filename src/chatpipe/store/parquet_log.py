"""Append-only records as a directory of small Parquet files.

An append is one file, written under a hidden name, flushed, then renamed. So two writers do not
conflict, and a file that is read is complete. Files are never rewritten or removed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.errors import ArtifactError
from chatpipe.store.disk_errors import disk_errors
from chatpipe.utils.atomic_writes import sync


def append_rows(folder: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> Path:
    """Write the rows as one file, complete or not at all, and return its path."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{uuid.uuid4().hex}.parquet"
    partial = folder / f".{name}.partial"
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(folder / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(folder)
    return folder / name


def files(folder: Path) -> list[Path]:
    """Return the files of that directory, the oldest first."""
    return sorted(folder.glob("*.parquet"))


def read_file(file: Path) -> pa.Table:
    """Return the rows of a file; ArtifactError if it is damaged."""
    try:
        with file.open("rb") as opened:
            return pq.read_table(opened)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{file}: is not a whole Parquet file ({error}); move it away to go on without it."
        ) from None

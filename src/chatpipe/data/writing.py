"""Rows → Parquet, a part at a time, counted on the way."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Columns of few values, and their paths in Parquet. A dictionary of texts or ids would be as large
# as they are.
REPEATED = {
    "source": "source",
    "reason": "reason",
    "file": "file",
    "history": "history.list.element.role",
}
# A group of rows is written when it has so many rows or bytes.
GROUP_ROWS = 1 << 15
GROUP_BYTES = 1 << 26
# Snappy or LZ4 would add a fifth to what normalizing and merging take, and spare a twentieth of the
# disk; the least and greatest of texts, which nothing asks for, a third to writing
# (benchmarks/data_at_scale.py).
COMPRESSION = "none"
STATISTICS = False


class RowWriter:
    """A Parquet file of that schema, written part by part; `column` is what its rows are counted
    by, and need not be in the file. A group is written while the next one is gathered: an error
    of writing is raised by a later call, or at the end."""

    def __init__(self, path: Path, schema: pa.Schema, column: str | None = None) -> None:
        self.rows = 0
        repeated = [path for name, path in REPEATED.items() if name in schema.names]
        self._writer = pq.ParquetWriter(
            path,
            schema,
            use_dictionary=repeated,
            compression=COMPRESSION,
            write_statistics=STATISTICS,
        )
        self._thread = ThreadPoolExecutor(1)
        self._being_written: Future[None] | None = None
        self._schema = schema
        self._pending: list[pa.Table] = []
        self._pending_rows = self._pending_bytes = 0
        self._column = column
        self._counted = Counter[str]()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._writer, self._thread:
            if kind is None:
                self._flush()
                self._wait()

    def write(self, table: pa.Table) -> None:
        """Append the rows: those of its columns that the schema has."""
        if not table.num_rows:
            return
        self.rows += table.num_rows
        if self._column:
            self._counted.update(count_values(table[self._column]))
        rows = table.select(self._schema.names).cast(self._schema)
        self._pending.append(rows)
        self._pending_rows += rows.num_rows
        self._pending_bytes += rows.nbytes
        if self._pending_rows >= GROUP_ROWS or self._pending_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._wait()
            rows = pa.concat_tables(self._pending)
            self._being_written = self._thread.submit(self._writer.write_table, rows)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def _wait(self) -> None:
        """Until the last group is written; its error, if it has one."""
        if self._being_written:
            self._being_written.result()

    def counts(self) -> dict[str, int]:
        """Rows by the value of that column, nulls left out, the most frequent first."""
        return ordered(self._counted)


def count_values(column: pa.ChunkedArray) -> Counter[str]:
    """How often each value occurs, nulls left out."""
    pairs = [(item["values"], item["counts"]) for item in pc.value_counts(column).to_pylist()]
    return Counter({str(value): int(count) for value, count in pairs if value is not None})


def ordered(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first, then by name."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

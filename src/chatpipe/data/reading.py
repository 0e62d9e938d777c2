"""Row files → Arrow tables of a format's columns, with a reason beside every row that is none.

A file is read in parts, so that its size does not matter.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from chatpipe.data.columns import ColumnNames, described_type, printable
from chatpipe.data.csv_rows import CSVFile
from chatpipe.data.first_row import LONGEST_LINE, first_row
from chatpipe.data.json_rows import JSONRows
from chatpipe.data.json_values import JSONListError, decoded, is_list, list_items
from chatpipe.data.nested import nested_fields, value_at
from chatpipe.data.opening import READ_ERRORS, SUFFIXES, content_kind, head, not_utf8, opened
from chatpipe.data.parquet_rows import (
    BATCH_BYTES,
    BATCH_ROWS,
    ParquetRows,
    batches,
    is_text,
    textual_type,
)
from chatpipe.data.preferences import preference_warnings
from chatpipe.errors import DataError
from chatpipe.formats.base import READ_REASON, Format

__all__ = ["READ_REASON", "SUFFIXES", "Part", "RowFile", "read_rows"]

BLOCK_BYTES = 2 << 20
# Lines are checked one by one where Arrow refuses a block that is no larger than this.
SMALL_BYTES = 1 << 14

# Reads one part of a file; another thread may do it.
Part = Callable[[], pa.Table]


class RowFile:
    """A file of rows. `rename` maps our column names to the file's."""

    def __init__(self, path: Path, row_format: Format, rename: dict[str, str]) -> None:
        self.path = path
        if row_format.as_turns and _holds_turns(path, row_format, rename):
            row_format = row_format.as_turns
        self.format = row_format  # of the layouts of the format, that of this file
        self.columns = ColumnNames(path, row_format, rename)
        self._types = self.columns.types
        self._json_rows = JSONRows(self.columns, SMALL_BYTES)
        self._details = self._json_rows.details
        self._parquet_rows = ParquetRows(self.columns, self._details)
        # The file's columns, as far as they were seen.
        self._column_names = self._json_rows.column_names
        self._csv_file: CSVFile | None = None
        self._texts: list[str] = []  # columns that have text where the format may have lists

    def parts(self) -> Iterator[Part]:
        """The file's parts in order. Each gives the format's columns and `read_reason` (null
        where the row could be read).

        Raises DataError where the file as a whole cannot be read or lacks a column. In JSON every
        row names its columns: `check`, afterwards, knows whether one was in none.
        """
        kinds = {
            "parquet": self._parquet,
            "csv": self._csv,
            "jsonl": self._json,
            "json": self._json,
        }
        with self._readable():
            for part in kinds[content_kind(self.path)]():
                yield partial(self._ours, part)

    def check(self) -> None:
        """DataError where no row of the parts that were read has an expected column."""
        if self.missing():
            self.columns.require(sorted(self._column_names))

    def missing(self) -> list[str]:
        """Expected columns that no row of JSON had in the parts that were read so far; none where
        there was no row, or none that names a column."""
        return [
            name
            for name in self.columns.expected
            if self._column_names and name not in self._column_names
        ]

    def found(self) -> set[str]:
        """The columns that the parts read so far were seen to have."""
        return self._column_names

    def unused(self) -> list[str]:
        """Columns that look meant and are not used; of long JSON files a sample is looked at."""
        return sorted([*self.columns.unused(self._column_names), *self._texts])

    def others(self) -> list[str]:
        """All other columns that are not used."""
        return sorted(self._column_names - self.columns.keys - {*self.unused()})

    def warnings(self) -> list[str]:
        """What is suspicious about the parts that were read."""
        warnings = [f"{self.path}: {line}" for line in preference_warnings(first_row(self.path))]
        return [*warnings, *(self._csv_file.warnings if self._csv_file else [])]

    def details(self) -> dict[str, str]:
        """Of each reason for which rows cannot be used, what such a row has, as far as known."""
        return self._details

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except UnicodeError:
            raise not_utf8(self.path) from None
        except JSONListError as fault:
            raise DataError(f"{self.path}: {fault}.") from None
        except READ_ERRORS as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            kind = self.path.suffix[1:]
            raise DataError(f"{self.path}: cannot be read as {kind}: {lines[0]}") from None

    def _ours(self, part: Part) -> pa.Table:
        with self._readable():
            table = part()
        theirs = self.columns.theirs
        columns = [_typed(self.path, table, name, self._types[name]) for name in theirs.values()]
        reasons = (
            table[READ_REASON]
            if READ_REASON in table.column_names
            else pa.nulls(table.num_rows, pa.string())
        )
        return pa.table([*columns, reasons], names=[*theirs, READ_REASON])

    def _parquet(self) -> Iterator[Part]:
        schema = pyarrow.parquet.read_schema(self.path)
        names = [*schema.names, *nested_fields(schema, self.columns.dotted)]
        self._column_names.update(names)
        self.columns.require(names)
        used = [name for name in names if name in self._types]
        self._texts = [name for name in self._may_be_lists(used) if is_text(schema, name)]
        used = [name for name in used if name not in self._texts]
        for batch in batches(self.path, used):
            yield partial(self._parquet_rows.table, pa.Table.from_batches([batch]), used)

    def _csv(self) -> Iterator[Part]:
        file = self._csv_file = CSVFile(self.path, list(self._types))
        if not any(name.strip() for name in file.names):
            raise DataError(f"{self.path}: has no rows; its first line must name the columns.")
        self._column_names.update(file.names)
        self.columns.require(file.names)
        used = [name for name in file.names if name in self._types]
        self._texts = self._may_be_lists(used)
        used = [name for name in used if name not in self._texts]
        for records in file.pieces(BATCH_ROWS, BATCH_BYTES):
            yield partial(file.table, used, records, READ_REASON)

    def _may_be_lists(self, names: Sequence[str]) -> list[str]:
        """Those columns that the format has lists in, and that a variant does not name."""
        expected = self.columns.expected
        return [
            name for name in names if pa.types.is_list(self._types[name]) and name not in expected
        ]

    def _json(self) -> Iterator[Part]:
        """One list of rows, or a row a line, whichever the file is."""
        start = head(self.path)
        if not start.strip():
            return
        if is_list(start):
            yield from self._json_list()
            return
        first = start.lstrip().partition(b"\n")[0]
        if content_kind(self.path) == "json" and len(first) < len(start.strip()):
            if not isinstance(decoded(first), dict | list):
                raise DataError(self._no_list(start))
        elif content_kind(self.path) == "json":
            value = decoded(first)
            if not isinstance(value, dict) or not self._types.keys() & value.keys():
                raise DataError(self._no_list(start))
        if b"\n" not in start and b"\r" in start.strip():
            raise DataError(
                f"{self.path}: its lines end in carriage returns alone; convert it with "
                "tr '\\r' '\\n'."
            )
        yield from self._json_lines()

    def _no_list(self, start: bytes) -> str:
        content = "an object" if start.lstrip().startswith(b"{") else "something else"
        key = re.search(rb'"([ -!#-~]{1,60})"\s*:\s*\[\s*\{', start)
        hint = f"; save the list under its key {key[1].decode()} by itself" if key else ""
        return f"{self.path}: expected a list of rows or a row a line, found {content}{hint}."

    def _json_list(self) -> Iterator[Part]:
        with opened(self.path) as file:
            text = io.TextIOWrapper(file, "utf-8")
            batch: list[Any] = []
            size, before = 0, 0
            for row in list_items(text):
                batch.append(row)
                size = text.buffer.tell() if len(batch) % 64 == 0 else size
                if len(batch) >= BATCH_ROWS or size - before > BATCH_BYTES:
                    yield partial(self._json_rows.checked, batch)
                    batch, before = [], size
            if batch:
                yield partial(self._json_rows.checked, batch)

    def _json_lines(self) -> Iterator[Part]:
        with opened(self.path) as file:
            while block := file.read(BLOCK_BYTES):
                rest = file.readline(LONGEST_LINE)
                if len(rest) == LONGEST_LINE:
                    raise DataError(f"{self.path}: a line has more than {LONGEST_LINE >> 20} MiB.")
                yield partial(self._json_rows.block, block + rest)


def _holds_turns(path: Path, row_format: Format, rename: dict[str, str]) -> bool:
    """Whether the file's first row has a list in a column of the format; False where it cannot be
    read, which is for `parts` to say."""
    names = [rename.get(name, name) for name in row_format.columns]
    try:
        if content_kind(path) == "parquet":
            schema = pyarrow.parquet.read_schema(path)
            fields = [schema.field(name).type for name in names if name in schema.names]
            return any(map(pa.types.is_nested, fields))
    except (*READ_ERRORS, DataError, ValueError):
        return False
    row = first_row(path)
    return any(isinstance(value_at(row, name), list) for name in names)


def read_rows(path: Path, row_format: Format, rename: dict[str, str]) -> pa.Table:
    """The whole file at once: the format's columns and `read_reason` (null where the row could be
    read). Raises DataError as RowFile does."""
    file = RowFile(path, row_format, rename)
    tables = [part() for part in file.parts()]
    file.check()
    empty = pa.schema([(name, column.type) for name, column in row_format.columns.items()])
    nothing = empty.append(pa.field(READ_REASON, pa.string())).empty_table()
    return pa.concat_tables([nothing, *tables])


def _typed(path: Path, table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[name]
    if column.type == kind:
        return column
    try:
        if not _is_alike(column.type, kind):
            raise pa.ArrowInvalid(f"{column.type} is not {kind}")
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"{path}: column {printable(name)}: expected {described_type(kind)}, found "
            f"{described_type(column.type)}; name the right column under `columns`."
        ) from None


def _is_alike(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of `kind` are what `wanted` is, in another layout: Arrow's cast would make
    text of numbers, too."""
    if pa.types.is_null(kind):
        return True
    if not pa.types.is_nested(wanted):
        return bool(pa.types.is_string(textual_type(kind)) == pa.types.is_string(wanted))
    if pa.types.is_list(wanted):
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return any(of(kind) for of in lists) and _is_alike(kind.value_type, wanted.value_type)
    return bool(pa.types.is_nested(kind))

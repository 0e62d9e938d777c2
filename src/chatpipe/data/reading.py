"""Row files → Arrow tables of a format's columns, with a reason beside every row that is none.

A file is read in parts, so that its size does not matter; only a `.json` file, one list, is read
whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from chatpipe.data.formats import NOT_TEXT, UNDECODABLE, Format
from chatpipe.errors import DataError

READ_REASON = "read_reason"
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
BLOCK_BYTES = 2 << 20
BATCH_ROWS = 1 << 13
BATCH_BYTES = 1 << 24
# Lines are checked one by one where Arrow refuses a block that is no larger than this.
SMALL_BYTES = 1 << 14

# Reads one part of a file; another thread may do it.
Part = Callable[[], pa.Table]


class RowFile:
    """A file of rows. `rename` maps our column names to the file's."""

    def __init__(self, path: Path, row_format: Format, rename: dict[str, str]) -> None:
        self.path = path
        self._names = {name: rename.get(name, name) for name in row_format.columns}
        columns = [(self._names[ours], column) for ours, column in row_format.columns.items()]
        self._types = {theirs: column.type for theirs, column in columns}
        self._required = [theirs for theirs, column in columns if column.required]
        self._found: set[str] = set()  # the columns that rows of JSON have

    def parts(self) -> Iterator[Part]:
        """The file's parts in order. Each gives the format's columns and `read_reason` (null
        where the row could be read).

        Raises DataError where the file as a whole cannot be read or lacks a required column. In
        JSON every row names its columns: `check`, afterwards, knows whether one was in none.
        """
        kinds = {
            ".parquet": self._parquet,
            ".csv": self._csv,
            ".jsonl": self._json_lines,
            ".json": self._json,
        }
        if self.path.suffix not in kinds:
            known = ", ".join(SUFFIXES)
            raise DataError(f"{self.path}: a row file ends in {known}; rename or convert it.")
        with self._readable():
            for part in kinds[self.path.suffix]():
                yield partial(self._ours, part)

    def check(self) -> None:
        """DataError where no row of the parts that were read has a required column."""
        if self.missing():
            self._require(sorted(self._found))

    def missing(self) -> list[str]:
        """Required columns that no row of JSON had in the parts that were read so far; none where
        there was no row, or none that names a column."""
        return [name for name in self._required if self._found and name not in self._found]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            first = str(error).strip().splitlines()[0]
            kind = self.path.suffix[1:]
            raise DataError(f"{self.path}: cannot be read as {kind}: {first}") from None

    def _require(self, found: Sequence[str]) -> None:
        missing = [name for name in self._required if name not in found]
        if missing:
            ours = {theirs: name for name, theirs in self._names.items()}
            like = ", ".join(f"{ours[name]}: NAME" for name in missing)
            raise DataError(
                f"{self.path}: column {' and '.join(missing)} missing; found are "
                f"{', '.join(found)}. Rename them, or say in a variant which is "
                f"which: columns: {{{like}}}."
            )

    def _ours(self, part: Part) -> pa.Table:
        with self._readable():
            table = part()
        columns = [
            _typed(self.path, table, theirs, self._types[theirs]) for theirs in self._names.values()
        ]
        reasons = (
            table[READ_REASON]
            if READ_REASON in table.column_names
            else pa.nulls(table.num_rows, pa.string())
        )
        return pa.table([*columns, reasons], names=[*self._names, READ_REASON])

    def _parquet(self) -> Iterator[Part]:
        names = pyarrow.parquet.read_schema(self.path).names
        self._require(names)
        for batch in batches(self.path, [name for name in names if name in self._types]):
            yield partial(pa.Table.from_batches, [batch])

    def _csv(self) -> Iterator[Part]:
        with pyarrow.csv.open_csv(self.path) as header:
            names = header.schema.names
        self._require(names)
        with pyarrow.csv.open_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[name for name in names if name in self._types],
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        ) as read:
            for batch in read:
                yield partial(pa.Table.from_batches, [batch])

    def _json(self) -> Iterator[Part]:
        try:
            rows = json.loads(self.path.read_text("utf-8"))
        except ValueError as error:
            raise DataError(f"{self.path}: is not valid JSON: {error}.") from None
        if not isinstance(rows, list):
            raise DataError(f"{self.path}: expected a list of rows, found a {type(rows).__name__}.")
        for first in range(0, len(rows), BATCH_ROWS):
            yield partial(self._checked, rows[first : first + BATCH_ROWS])

    def _json_lines(self) -> Iterator[Part]:
        with self.path.open("rb") as file:
            while block := file.read(BLOCK_BYTES) + file.readline():
                yield partial(self._json_block, block)

    def _json_block(self, block: bytes) -> pa.Table:
        """Whole lines → rows. One bad line spoils Arrow's reading of a block: the block is halved
        until the bad line's part is small enough to be read in Python."""
        try:
            return self._quickly(block)
        except pa.ArrowInvalid:
            middle = block.find(b"\n", len(block) // 2) + 1
            if len(block) <= SMALL_BYTES or middle in (0, len(block)):
                return self._checked(_decoded(block))
        halves = (self._json_block(block[:middle]), self._json_block(block[middle:]))
        return pa.concat_tables(halves)

    def _quickly(self, block: bytes) -> pa.Table:
        """Rows by Arrow; ArrowInvalid where it cannot read them all."""
        _check_utf8(block)
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block)),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(list(self._types.items())),
                newlines_in_values=False,
                unexpected_field_behavior="ignore",
            ),
        )
        nulls = {name: table[name].null_count for name in self._required}
        if table.num_rows in nulls.values():
            # Either null or not there: the lines themselves say which.
            self._found.update(*(row for row in _decoded(block) if isinstance(row, dict)))
        else:
            self._found.update(self._required)
        reason = pa.nulls(table.num_rows, pa.string())
        for name in (name for name, count in nulls.items() if count):
            reason = pc.if_else(pc.is_null(table[name]), NOT_TEXT, reason)
        return table.append_column(READ_REASON, reason)

    def _checked(self, rows: Iterable[Any]) -> pa.Table:
        """Python rows → a table; a row whose value is of another type is null and has a
        reason."""
        values: dict[str, list[Any]] = {theirs: [] for theirs in self._types}
        reasons: list[str | None] = []
        for row in rows:
            reason = None if isinstance(row, dict) else UNDECODABLE
            fields: dict[str, Any] = row if isinstance(row, dict) else {}
            self._found.update(fields)
            for theirs, kind in self._types.items():
                value = fields.get(theirs)
                absent = value is None and theirs not in self._required
                fits = absent or (value is not None and _fits(value, kind))
                values[theirs].append(value if fits else None)
                if not fits:
                    reason = reason or NOT_TEXT
            reasons.append(reason)
        columns = {theirs: pa.array(values[theirs], kind) for theirs, kind in self._types.items()}
        return pa.table({**columns, READ_REASON: pa.array(reasons, pa.string())})


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A Parquet file's rows, those columns of them, in pieces of bounded size."""
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        about = file.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        rows = BATCH_BYTES * about.num_rows // max(1, size)  # of rows as long as these are
        yield from file.iter_batches(min(BATCH_ROWS, max(1, rows)), columns=columns)


def read_rows(path: Path, row_format: Format, rename: dict[str, str]) -> pa.Table:
    """The whole file at once: the format's columns and `read_reason` (null where the row could be
    read). Raises DataError as RowFile does."""
    file = RowFile(path, row_format, rename)
    tables = [part() for part in file.parts()]
    file.check()
    empty = pa.schema([(name, column.type) for name, column in row_format.columns.items()])
    nothing = empty.append(pa.field(READ_REASON, pa.string())).empty_table()
    return pa.concat_tables([nothing, *tables])


def _decoded(block: bytes) -> Iterator[Any]:
    """Every line's value; UNDECODABLE where it is no JSON."""
    for line in block.split(b"\n"):
        if line.strip():
            try:
                yield json.loads(line.decode("utf-8"))
            except ValueError:
                yield UNDECODABLE


def _check_utf8(block: bytes) -> None:
    """ArrowInvalid where the bytes are no UTF-8: Arrow's JSON reader does not look."""
    ends = pa.py_buffer(np.array([0, len(block)], np.int64))
    pa.LargeStringArray.from_buffers(1, ends, pa.py_buffer(block)).validate(full=True)


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether the value has that type, as Arrow's JSON reader sees it: within a list or a struct
    it may be null."""
    if value is None:
        return True
    if pa.types.is_string(kind):
        return isinstance(value, str) and _encodable(value)
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(item, kind.value_type) for item in value)
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and all(_fits(value.get(f.name), f.type) for f in kind)
    return False


def _encodable(text: str) -> bool:
    """Whether it is text: half of a surrogate pair, which JSON can escape, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _typed(path: Path, table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[name]
    if column.type == kind:
        return column
    textual = pa.types.is_large_string(column.type) or pa.types.is_nested(column.type)
    try:
        if not textual and not pa.types.is_null(column.type):
            raise pa.ArrowInvalid(f"{column.type} is not text")
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"{path}: column {name}: expected {kind}, found {column.type}; "
            "name the right column under `columns`."
        ) from None

"""Row files → Arrow tables of a format's columns, with a reason beside every row that is none.

A file is read in parts, so that its size does not matter. Plain lines of JSON are read by Arrow;
whatever is odd about them is decided in Python, so that it does not depend on what stands nearby.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from chatpipe.data.columns import ColumnNames
from chatpipe.data.csv_rows import CSVFile
from chatpipe.data.formats import KEY_TWICE, NOT_TEXT, UNDECODABLE, Format
from chatpipe.data.json_values import JSONListError, decoded, decoded_lines, is_list, list_items
from chatpipe.data.opening import READ_ERRORS, SUFFIXES, content_kind, head, not_utf8, opened
from chatpipe.data.parquet_rows import checked_text, textual
from chatpipe.data.text import encodable
from chatpipe.errors import DataError

__all__ = ["READ_REASON", "SUFFIXES", "Part", "RowFile", "batches", "read_rows"]

READ_REASON = "read_reason"
BLOCK_BYTES = 2 << 20
BATCH_ROWS = 1 << 13
BATCH_BYTES = 1 << 24
LONGEST_LINE = 1 << 28
# Lines are checked one by one where Arrow refuses a block that is no larger than this.
SMALL_BYTES = 1 << 14
# Lines of so many brackets are not for Arrow, whose reader would go down with the nesting.
MOST_BRACKETS = 256
SHALLOW_BYTES = 1 << 10  # a shorter line is not nested too deeply for Python
SAMPLED_LINES = 8  # of a block: what columns its rows have

# Reads one part of a file; another thread may do it.
Part = Callable[[], pa.Table]


class RowFile:
    """A file of rows. `rename` maps our column names to the file's."""

    def __init__(self, path: Path, row_format: Format, rename: dict[str, str]) -> None:
        self.path = path
        self.columns = ColumnNames(path, row_format, rename)
        self._types = self.columns.types
        self._found: set[str] = set()  # the file's columns, as far as they were seen
        self._not_text: set[str] = set()
        self._csv_file: CSVFile | None = None

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
            self.columns.require(sorted(self._found))

    def missing(self) -> list[str]:
        """Expected columns that no row of JSON had in the parts that were read so far; none where
        there was no row, or none that names a column."""
        return [name for name in self.columns.expected if self._found and name not in self._found]

    def found(self) -> set[str]:
        """The columns that the parts read so far were seen to have."""
        return self._found

    def unused(self) -> list[str]:
        """Columns that look meant and are not used; of long JSON files a sample is looked at."""
        return self.columns.unused(self._found)

    def warnings(self) -> list[str]:
        """What is suspicious about the parts that were read."""
        return self._csv_file.warnings if self._csv_file else []

    def not_text(self) -> list[str]:
        """Which columns had something else than text, and what."""
        return sorted(self._not_text)

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
        names = pyarrow.parquet.read_schema(self.path).names
        self._found.update(names)
        self.columns.require(names)
        for batch in batches(self.path, [name for name in names if name in self._types]):
            yield partial(self._parquet_table, pa.Table.from_batches([batch]))

    def _parquet_table(self, table: pa.Table) -> pa.Table:
        """The batch with broken text as nulls, and reasons as rows of JSON have them."""
        reason = pa.nulls(table.num_rows, pa.string())
        arrays = {}
        for name in table.column_names:
            column, broken = checked_text(textual(table[name]))
            convert = self.columns.converted.get(name)
            if convert is not None and pa.types.is_nested(column.type):
                values = [convert(value) for value in column.to_pylist()]
                column = pa.array(values, self._types[name])
            if name in self.columns.required:
                broken = pc.or_(broken, column.is_null())
            reason = pc.if_else(broken, NOT_TEXT, reason)
            arrays[name] = column
        return pa.table({**arrays, READ_REASON: reason})

    def _csv(self) -> Iterator[Part]:
        file = self._csv_file = CSVFile(self.path, list(self._types))
        self._found.update(file.names)
        self.columns.require(file.names)
        used = [name for name in file.names if name in self._types]
        for records in file.pieces(BATCH_ROWS, BATCH_BYTES):
            yield partial(file.table, used, records, READ_REASON)

    def _json(self) -> Iterator[Part]:
        """One list of rows, or a row a line, whichever the file is."""
        start = head(self.path)
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
        what = "an object" if start.lstrip().startswith(b"{") else "something else"
        return f"{self.path}: expected a list of rows or a row a line, found {what}."

    def _json_list(self) -> Iterator[Part]:
        with opened(self.path) as file:
            text = io.TextIOWrapper(file, "utf-8")
            batch: list[Any] = []
            size, before = 0, 0
            for row in list_items(text):
                batch.append(row)
                size = text.buffer.tell() if len(batch) % 64 == 0 else size
                if len(batch) >= BATCH_ROWS or size - before > BATCH_BYTES:
                    yield partial(self._checked, batch)
                    batch, before = [], size
            if batch:
                yield partial(self._checked, batch)

    def _json_lines(self) -> Iterator[Part]:
        with opened(self.path) as file:
            while block := file.read(BLOCK_BYTES):
                rest = file.readline(LONGEST_LINE)
                if len(rest) == LONGEST_LINE:
                    raise DataError(f"{self.path}: a line has more than {LONGEST_LINE >> 20} MiB.")
                yield partial(self._json_block, block + rest)

    def _json_block(self, block: bytes) -> pa.Table:
        """Whole lines → rows, those of them in Python that are not plain."""
        if self.columns.converted:
            return self._checked(decoded_lines(block))
        for line in block.split(b"\n", SAMPLED_LINES)[:SAMPLED_LINES]:
            row = decoded(line)
            self._found.update(row if isinstance(row, dict) else ())
        return self._halved(block)

    def _halved(self, block: bytes) -> pa.Table:
        """One bad line spoils Arrow's reading of a block: the block is halved until the bad line's
        part is small enough to be read in Python."""
        try:
            return self._quickly(block)
        except pa.ArrowInvalid:
            middle = block.find(b"\n", len(block) // 2) + 1
            if len(block) <= SMALL_BYTES or middle in (0, len(block)):
                return self._checked(decoded_lines(block))
        return pa.concat_tables((self._halved(block[:middle]), self._halved(block[middle:])))

    def _quickly(self, block: bytes) -> pa.Table:
        """Rows by Arrow; ArrowInvalid where it cannot read them all as Python would."""
        lines = _plain_lines(block)
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
        if table.num_rows != lines:
            raise pa.ArrowInvalid(f"{lines} lines have {table.num_rows} values")
        for name in set(self.columns.expected) - self._found:
            if table[name].null_count < table.num_rows:
                self._found.add(name)
            else:  # null or not there: the lines themselves say which
                rows = decoded_lines(block)
                self._found.update(*(row for row in rows if isinstance(row, dict)))
        reason = pa.nulls(table.num_rows, pa.string())
        for name in self.columns.required:
            if table[name].null_count:
                self._not_text.add(_described(name, {}))
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
            if getattr(row, "repeated", frozenset()) & self._types.keys():
                reason, fields = KEY_TWICE, {}
            for theirs, kind in self._types.items():
                value = self._value(theirs, kind, fields.get(theirs))
                values[theirs].append(None if value is NotImplemented else value)
                if value is NotImplemented and reason is None:
                    reason = NOT_TEXT
                    self._not_text.add(_described(theirs, fields))
            reasons.append(reason)
        columns = {theirs: pa.array(values[theirs], kind) for theirs, kind in self._types.items()}
        return pa.table({**columns, READ_REASON: pa.array(reasons, pa.string())})

    def _value(self, name: str, kind: pa.DataType, value: Any) -> Any:
        """The value of that column; NotImplemented where it is of another type."""
        if value is None or value != value:  # not a number: what pandas writes for nothing
            return NotImplemented if name in self.columns.required else None
        convert = self.columns.converted.get(name)
        if convert is not None:
            turned = convert(value)
            return NotImplemented if turned is None else turned
        return value if _fits(value, kind) else NotImplemented


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
            raise pa.ArrowInvalid(f"{about.num_rows} rows are said to be there, {read} are")


def read_rows(path: Path, row_format: Format, rename: dict[str, str]) -> pa.Table:
    """The whole file at once: the format's columns and `read_reason` (null where the row could be
    read). Raises DataError as RowFile does."""
    file = RowFile(path, row_format, rename)
    tables = [part() for part in file.parts()]
    file.check()
    empty = pa.schema([(name, column.type) for name, column in row_format.columns.items()])
    nothing = empty.append(pa.field(READ_REASON, pa.string())).empty_table()
    return pa.concat_tables([nothing, *tables])


def _plain_lines(block: bytes) -> int:
    """How many lines the block has; ArrowInvalid where one is not an object from its first byte to
    its last, or may be nested deeply: Arrow takes several values in a line, rows over several
    lines, and dies of a null at the start."""
    letters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = letters[ends - 1]
    if (last == ord("\r")).any():
        last = np.where(last == ord("\r"), letters[ends - 2], last)
    if not (letters[starts] == ord("{")).all() or not (last == ord("}")).all():
        raise pa.ArrowInvalid("a line is no object")
    for line in np.flatnonzero(ends - starts > SHALLOW_BYTES).tolist():
        text = block[starts[line] : ends[line]]
        if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:
            raise pa.ArrowInvalid("a line has many brackets")
    return len(ends)


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
        return isinstance(value, str) and encodable(value)
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(item, kind.value_type) for item in value)
    return False


def _described(name: str, fields: dict[str, Any]) -> str:
    """What the row has in that column, which should have been text (or turns)."""
    value = fields.get(name)
    kinds = {bool: "true or false", float: "a number", list: "a list", dict: "an object"}
    if value is None:
        return f"{name} is null or missing"
    if isinstance(value, list) and value and not isinstance(value[0], str):
        return f"{name} is a list of something else"
    return f"{name} is {kinds.get(type(value), 'no valid text')}"


def _typed(path: Path, table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[name]
    if column.type == kind:
        return column
    try:
        if not pa.types.is_nested(column.type) and not pa.types.is_null(column.type):
            raise pa.ArrowInvalid(f"{column.type} is not text")
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"{path}: column {name}: expected {kind}, found {column.type}; "
            "name the right column under `columns`."
        ) from None

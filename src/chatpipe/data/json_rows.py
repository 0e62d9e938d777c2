"""Rows of JSON → tables: plain lines by Arrow, whatever is odd about them by Python.

Arrow takes several values in a line, rows over several lines, and dies of a null at the start: what
it may see is decided here, so that a row's end does not depend on what stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from chatpipe.data.columns import ColumnNames, described_type, printable
from chatpipe.data.json_values import Undecodable, decoded, decoded_lines, why_undecodable
from chatpipe.data.nested import nested_names, value_at
from chatpipe.formats.base import KEY_TWICE, NOT_TEXT, READ_REASON, UNDECODABLE
from chatpipe.utils.text import encodable

# Lines of so many brackets are not for Arrow, whose reader would go down with the nesting.
MOST_BRACKETS = 256
SHALLOW_BYTES = 1 << 10  # a shorter line is not nested too deeply for Python
SAMPLED_LINES = 64  # of a block: what columns its rows have


class JSONRows:
    """Turns rows into tables, and gathers which columns they have and why some cannot be used.

    Blocks of up to `small_bytes` that Arrow refuses are read in Python, larger ones are halved.
    """

    def __init__(self, columns: ColumnNames, small_bytes: int) -> None:
        self.columns = columns
        self.column_names: set[str] = set()
        self.details: dict[str, str] = {}  # of each reason, what such a row has
        self._types = columns.types
        self._small_bytes = small_bytes
        self._converted = columns.converted.keys()
        # Values that only Python converts are none of Arrow's: it refuses a block that has one.
        self._arrow_schema = pa.schema(
            (name, pa.null() if name in self._converted else kind)
            for name, kind in self._types.items()
        )

    def block(self, block: bytes) -> pa.Table:
        """Whole lines → rows, those of them in Python that are not plain."""
        sample = [row for row in map(decoded, _sample(block)) if isinstance(row, dict)]
        self.column_names.update(*sample)
        converted = any(row.get(name) is not None for row in sample for name in self._converted)
        if self.columns.dotted or converted:
            return self.checked(decoded_lines(block))
        return self._halved(block)

    def _halved(self, block: bytes) -> pa.Table:
        """One bad line spoils Arrow's reading of a block: the block is halved until the bad line's
        part is small enough to be read in Python."""
        try:
            return self._quickly(block)
        except pa.ArrowInvalid:
            middle = block.find(b"\n", len(block) // 2) + 1
            if len(block) <= self._small_bytes or middle in (0, len(block)):
                return self.checked(decoded_lines(block))
        return pa.concat_tables((self._halved(block[:middle]), self._halved(block[middle:])))

    def _quickly(self, block: bytes) -> pa.Table:
        """Rows by Arrow; ArrowInvalid where it cannot read them all as Python would."""
        lines = _plain_lines(block)
        _check_utf8(block)
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block)),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=self._arrow_schema,
                newlines_in_values=False,
                unexpected_field_behavior="ignore",
            ),
        )
        if table.num_rows != lines:
            raise pa.ArrowInvalid(f"{lines} lines have {table.num_rows} values")
        for name in set(self.columns.expected) - self.column_names:
            if table[name].null_count < table.num_rows:
                self.column_names.add(name)
            else:  # null or not there: the lines themselves say which
                rows = decoded_lines(block)
                self.column_names.update(*(row for row in rows if isinstance(row, dict)))
        for name in self._converted:
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.nulls(lines, self._types[name]))
        reason = pa.nulls(table.num_rows, pa.string())
        for name in self.columns.required:
            if table[name].null_count:
                self.details.setdefault(NOT_TEXT, f"{printable(name)} is null or missing")
                reason = pc.if_else(pc.is_null(table[name]), NOT_TEXT, reason)
        return table.append_column(READ_REASON, reason)

    def checked(self, rows: Iterable[Any]) -> pa.Table:
        """Python rows → a table; a row whose value is of another type is null and has a
        reason."""
        values: dict[str, list[Any]] = {theirs: [] for theirs in self._types}
        reasons: list[str | None] = []
        for row in rows:
            reason = None if isinstance(row, dict) else UNDECODABLE
            fields: dict[str, Any] = row if isinstance(row, dict) else {}
            if reason:
                self.details.setdefault(reason, _problem(row))
            self.column_names.update(fields, nested_names(fields, self.columns.dotted))
            if getattr(row, "repeated", frozenset()) & self.columns.keys:
                twice = sorted(row.repeated & self.columns.keys)
                self.details.setdefault(KEY_TWICE, f"key {printable(twice[0])}")
                reason, fields = KEY_TWICE, {}
            for theirs, kind in self._types.items():
                given = value_at(fields, theirs)
                value = self._value(theirs, kind, given)
                values[theirs].append(None if value is NotImplemented else value)
                if value is NotImplemented and reason is None:
                    reason = NOT_TEXT
                    self.details.setdefault(NOT_TEXT, described_value(theirs, kind, given))
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


def _sample(block: bytes) -> Iterator[bytes]:
    """Some lines from all over the block, one after another where it is short."""
    step = len(block) // SAMPLED_LINES
    start = 0
    while start < len(block):
        end = block.find(b"\n", start)
        end = len(block) if end < 0 else end
        yield block[start:end]
        start = end + 1
        if step > SHALLOW_BYTES:
            start = block.find(b"\n", start + step) + 1 or len(block)


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


def described_value(name: str, kind: pa.DataType, value: Any) -> str:
    """What the row has in that column instead of a value of that type."""
    start = f"{printable(name)} is"
    if value is None or value != value:
        return f"{start} null or missing"
    kinds = {bool: "true or false", float: "a number", int: "a number", dict: "an object"}
    if isinstance(value, str):
        if pa.types.is_string(kind):
            return f"{start} no valid text: half of a surrogate pair"
        return f"{start} text, not {described_type(kind)}"
    if isinstance(value, list):
        if pa.types.is_string(kind):
            return f"{start} a list"
        return f"{start} a list, but not {described_type(kind)}"
    return f"{start} {kinds.get(type(value), 'something else')}"


def _problem(row: Any) -> str:
    """Why that is no row."""
    if isinstance(row, Undecodable):
        return f"a row {why_undecodable(row.line)}"
    kinds = {str: "text", list: "a list", bool: "true or false", float: "a number"}
    return f"a row is {kinds.get(type(row), 'null')}, not an object"

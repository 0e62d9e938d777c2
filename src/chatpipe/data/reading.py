"""Row files → Arrow tables of a format's columns, with a reason beside every row that is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from chatpipe.data.formats import NOT_TEXT, UNDECODABLE, Format
from chatpipe.errors import DataError

READ_REASON = "read_reason"
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")


def read_rows(path: Path, row_format: Format, rename: dict[str, str]) -> pa.Table:
    """The format's columns and `read_reason` (null where the row could be read).

    `rename` maps our column names to the file's. Raises DataError where a required column is
    missing or the file as a whole cannot be read.
    """
    table = _read(path, row_format, rename)
    names = {name: rename.get(name, name) for name in row_format.columns}
    missing = [
        theirs
        for ours, theirs in names.items()
        if row_format.columns[ours].required and theirs not in table.column_names
    ]
    if missing:
        found = ", ".join(name for name in table.column_names if name != READ_REASON)
        raise DataError(f"{path}: column {', '.join(missing)} is missing; found are {found}.")
    columns = [
        _typed(path, table, theirs, row_format.columns[ours].type) for ours, theirs in names.items()
    ]
    reasons = (
        table[READ_REASON]
        if READ_REASON in table.column_names
        else pa.nulls(table.num_rows, pa.string())
    )
    return pa.table([*columns, reasons], names=[*names, READ_REASON])


def _read(path: Path, row_format: Format, rename: dict[str, str]) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix == ".jsonl":
            return _read_json_lines(path, row_format, rename)
        if path.suffix == ".json":
            return _read_json(path, row_format, rename)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {first}") from None
    known = ", ".join(SUFFIXES)
    raise DataError(f"{path}: a row file ends in {known}; rename or convert it.")


def _read_csv(path: Path) -> pa.Table:
    with pyarrow.csv.open_csv(path) as header:
        names = header.schema.names
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )


def _read_json_lines(path: Path, row_format: Format, rename: dict[str, str]) -> pa.Table:
    schema = pa.schema(
        [(rename.get(name, name), column.type) for name, column in row_format.columns.items()]
    )
    options = pyarrow.json.ParseOptions(
        explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="ignore"
    )
    try:
        table = pyarrow.json.read_json(path, parse_options=options)
    except pa.ArrowInvalid:
        # One bad line spoils Arrow's reading of the file: read it line by line to find which.
        return _checked(_decoded_lines(path), row_format, rename)
    required = [rename.get(n, n) for n, column in row_format.columns.items() if column.required]
    if all(table[name].null_count == 0 for name in required):
        return table
    return _checked(_decoded_lines(path), row_format, rename)


def _read_json(path: Path, row_format: Format, rename: dict[str, str]) -> pa.Table:
    try:
        rows = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON: {error}.") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, found a {type(rows).__name__}.")
    return _checked(iter(rows), row_format, rename)


def _decoded_lines(path: Path) -> Iterator[Any]:
    """Every line's value; UNDECODABLE where it is no JSON."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line.decode("utf-8"))
                except ValueError:
                    yield UNDECODABLE


def _checked(rows: Iterator[Any], row_format: Format, rename: dict[str, str]) -> pa.Table:
    """Python rows → a table; a row whose value is of another type is null and has a reason."""
    names = {ours: rename.get(ours, ours) for ours in row_format.columns}
    values: dict[str, list[Any]] = {theirs: [] for theirs in names.values()}
    reasons: list[str | None] = []
    present: set[str] = set()
    for row in rows:
        reason = None if isinstance(row, dict) else UNDECODABLE
        fields: dict[str, Any] = row if isinstance(row, dict) else {}
        present.update(fields)
        for ours, theirs in names.items():
            column = row_format.columns[ours]
            value = fields.get(theirs)
            fits = _fits(value, column.type) or (value is None and not column.required)
            values[theirs].append(value if fits else None)
            if not fits:
                reason = reason or NOT_TEXT
        reasons.append(reason)
    columns = {
        theirs: pa.array(values[theirs], row_format.columns[ours].type)
        for ours, theirs in names.items()
        if theirs in present or not present
    }
    return pa.table({**columns, READ_REASON: pa.array(reasons, pa.string())})


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_string(kind):
        return isinstance(value, str)
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(item, kind.value_type) for item in value)
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and all(_fits(value.get(f.name), f.type) for f in kind)
    return False


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

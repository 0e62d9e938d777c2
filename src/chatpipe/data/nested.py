"""Values within objects: a column `meta.question` is `question` of the column `meta`.

A column of that very name comes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def value_at(row: dict[str, Any], name: str) -> Any:
    """Return the row's value of that name; None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def nested_names(row: dict[str, Any], names: Iterable[str]) -> set[str]:
    """Return those of the names that are of a value within the row's objects."""
    return {name for name in names if "." in name and _is_within(row, name)}


def nested_fields(schema: pa.Schema, names: Iterable[str]) -> list[str]:
    """Return those of the names that are of a field within the schema's structs, and no column."""
    return [name for name in names if name not in schema.names and _field(schema, name) is not None]


def column_at(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return the column of that name, or what lies within a column of structs."""
    if name in table.column_names:
        return table[name]
    first, *path = name.split(".")
    return pc.struct_field(table[first], path)


def _is_within(row: dict[str, Any], name: str) -> bool:
    *above, last = name.split(".")
    value: Any = row
    for part in above:
        value = value.get(part) if isinstance(value, dict) else None
    return isinstance(value, dict) and last in value


def _field(schema: pa.Schema, name: str) -> pa.Field | None:
    first, *path = name.split(".")
    field = schema.field(first) if schema.names.count(first) == 1 else None
    for part in path:
        if field is None or not pa.types.is_struct(field.type):
            return None
        index = field.type.get_field_index(part)
        field = field.type.field(index) if index >= 0 else None
    return field

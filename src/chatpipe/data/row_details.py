"""What single rows of a JSON file have, for which they cannot be used."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatpipe.data.columns import ColumnNames
from chatpipe.data.json_rows import JSONRows
from chatpipe.data.json_values import decoded_lines, is_list, list_items
from chatpipe.data.opening import content_kind, head, opened


def row_details(path: Path, columns: ColumnNames, reasons: Mapping[int, str]) -> dict[int, str]:
    """Return what of these rows is wrong in words (row -> words), as far as there are any.

    Args:
        columns: The file's, for its format.
        reasons: Row, counted from 1 -> why it cannot be used.
    """
    details: dict[int, str] = {}
    if not reasons or content_kind(path) not in ("json", "jsonl"):
        return details
    for number, value in _chosen_values(path, reasons):
        reader = JSONRows(columns, small_bytes=0)
        reader.checked([value])
        if detail := reader.details.get(reasons[number]):
            details[number] = detail.removeprefix("a row ")
    return details


def _chosen_values(path: Path, chosen: Mapping[int, str]) -> Iterator[tuple[int, Any]]:
    last = max(chosen)
    with opened(path) as file:
        rows: Iterator[Any]
        is_one_list = is_list(head(path))
        if is_one_list:
            rows = list_items(io.TextIOWrapper(file, "utf-8"))
        else:
            rows = (line for line in file if line.strip())
        for number, row in enumerate(rows, 1):
            if number in chosen:
                yield number, row if is_one_list else next(decoded_lines(row))
            if number >= last:
                return

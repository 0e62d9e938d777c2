"""CSV by Python's own reader, in pieces: strictly, so that a quote that is left open is found."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from chatpipe.data.opening import head, opened
from chatpipe.errors import DataError
from chatpipe.formats.base import RAGGED

DELIMITERS = (",", "\t", ";", "|")
LONGEST_CELL = 1 << 26  # letters
PIECE_ROWS = 128
# A cell of so many lines, each of which could be a row, is probably a quote left open.
SUSPICIOUS_LINES = 20


class CSVFile:
    """The records of a CSV file: its delimiter is the one by which the header has most of the
    columns that are looked for."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        csv.field_size_limit(max(LONGEST_CELL, csv.field_size_limit()))
        headers = _headers(path)
        self.delimiter = max(
            DELIMITERS,
            key=lambda delimiter: (
                sum(name in columns for name in headers[delimiter]),
                len(headers[delimiter]) > 1,
                delimiter == ("\t" if ".tsv" in path.name.lower() else ","),
                len(headers[delimiter]),
            ),
        )
        self.names = headers[self.delimiter]
        self.warnings: list[str] = []

    def pieces(self, rows: int, size: int) -> Iterator[list[list[str]]]:
        """The records after the header, blank lines left out, in pieces of at most so many rows
        and about so many letters. DataError names the line where a record is broken."""
        with _reader(self.path, self.delimiter) as reader:
            try:
                next(filter(None, reader), None)
                piece: list[list[str]] = []
                letters = 0
                while records := list(islice(reader, min(rows, PIECE_ROWS))):
                    piece += filter(None, records)
                    letters += sum(map(len, chain.from_iterable(records)))
                    if len(piece) + PIECE_ROWS > rows or letters >= size:
                        yield piece
                        piece, letters = [], 0
                if piece:
                    yield piece
            except csv.Error:
                raise self._fault() from None

    def table(self, columns: Sequence[str], records: list[list[str]], reason: str) -> pa.Table:
        """Those columns of the records; a record with more or fewer cells than the header has
        nulls, and a reason in the column of that name."""
        self._look_for_open_quotes(records)
        width = len(self.names)
        reasons = pa.nulls(len(records), pa.string())
        whole = records
        if any(len(record) != width for record in records):
            whole = [record if len(record) == width else [] for record in records]
            reasons = pa.array([None if record else RAGGED for record in whole], pa.string())
        arrays = []
        for name in columns:
            index = self.names.index(name)
            cells = [record[index] if record else None for record in whole]
            arrays.append(pa.array(cells, pa.string()))
        return pa.table([*arrays, reasons], names=[*columns, reason])

    def _look_for_open_quotes(self, records: list[list[str]]) -> None:
        between = len(self.names) - 1
        for record in records:
            for cell in record:
                if cell.count("\n") < SUSPICIOUS_LINES or not between or self.warnings:
                    continue
                inner = cell.split("\n")[1:-1]
                if all(line.count(self.delimiter) == between for line in inner):
                    self.warnings.append(
                        f"{self.path.name}: a cell that begins with {cell[:40].splitlines()[0]!r} "
                        f"has {len(inner) + 2:,} lines, each like a row: is a quote left open?"
                    )

    def _fault(self) -> DataError:
        """Where the first broken record begins: found by reading it all again, record by record."""
        with _reader(self.path, self.delimiter) as reader:
            while True:
                line = reader.line_num + 1
                try:
                    next(reader)
                except StopIteration:
                    return DataError(f"{self.path}: has changed while it was read.")
                except csv.Error as error:
                    return DataError(f"{self.path}: line {line}: {self._problem(reader, error)}")

    def _problem(self, reader: Any, error: csv.Error) -> str:
        if "end of data" in str(error):
            return "a quote is opened here and never closed; close it, or double it as text."
        if "field limit" in str(error):
            return f"a cell has more than {LONGEST_CELL:,} letters; is a quote left open?"
        if "expected after" in str(error):
            return (
                f"text follows a closing quote in line {reader.line_num} of the row that begins "
                "here; a quote is left open, or one within a cell is not doubled."
            )
        return f"is not valid CSV: {error}."


@contextmanager
def _reader(path: Path, delimiter: str) -> Iterator[Any]:
    """A strict csv.reader over the file."""
    with opened(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        yield csv.reader(text, delimiter=delimiter, strict=True)


def _headers(path: Path) -> dict[str, list[str]]:
    """The names of the columns, by each delimiter."""
    start = head(path).decode("utf-8", "ignore")
    headers = {}
    for delimiter in DELIMITERS:
        records = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
        names = next(filter(None, records), [])
        headers[delimiter] = [name[:200] for name in names]
    return headers

"""Rows of any format → examples, and an account of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, model_validator

from chatpipe.config.schema import AUTO, Dataset, Fallback
from chatpipe.data.columns import unused_warning
from chatpipe.data.detection import definite_format
from chatpipe.data.examples import DROPPED_SCHEMA, SCHEMA, placed
from chatpipe.data.folders import ROWS, left_out_warnings, row_files
from chatpipe.data.hashing import as_ids, row_digests
from chatpipe.data.parallel import in_order
from chatpipe.data.reading import READ_REASON, Part, RowFile
from chatpipe.data.turn_counts import TurnAccount, TurnCounts
from chatpipe.data.writing import RowWriter, ordered
from chatpipe.errors import DataError
from chatpipe.formats.base import (
    FLAGS_BETWEEN,
    KEY_TWICE,
    NOT_TEXT,
    RAGGED,
    UNDECODABLE,
    counted_reasons,
)
from chatpipe.formats.registry import FORMATS
from chatpipe.formats.turn_settings import RepeatedRoles, Turns, TurnSettings
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.store import store
from chatpipe.utils.quantities import count_of

DUPLICATE = "duplicate"
# Rows without text, or whose text is not to be trained, whatever the split.
UNUSABLE = frozenset({NOT_TEXT, UNDECODABLE, RAGGED, KEY_TWICE}).union(
    *(row_format.unusable for row_format in FORMATS.values())
)


class RowAccount(BaseModel):
    """Where every row went: read = kept + Σ dropped. Flagged rows are kept, and counted. turns:
    those of the rows, where these are conversations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: int
    kept: int
    dropped: dict[str, int] = {}
    flagged: dict[str, int] = {}
    turns: TurnAccount | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> RowAccount:
        if self.read != self.kept + sum(self.dropped.values()):
            raise ValueError(f"{self.read} rows read, but {self.kept} kept and {self.dropped}")
        return self


class Normalize(Request):
    """One data set's files → examples.parquet and dropped.parquet."""

    kind: ClassVar[str] = "examples"
    version: ClassVar[int] = 4
    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset(
        {"format_version", "turns", "repeated_roles"}
    )

    raw: Artifact
    name: str
    format: str
    format_version: int = 1
    files: tuple[str, ...]
    columns: dict[str, str]
    expected_rows: int | None
    left_out: dict[str, str]  # files of the source that are not read, and why
    turns: Turns | None = None  # where it is not the format's own
    repeated_roles: RepeatedRoles = "join"

    @classmethod
    def of(cls, dataset: Dataset, raw: Artifact) -> Normalize:
        """The request for that data set, whose files are `raw`."""
        used = _source_used(dataset, raw)
        row_format = _row_format(dataset.format, raw, used, dataset.name)
        return cls(
            raw=raw,
            name=dataset.name,
            format=row_format,
            format_version=FORMATS[row_format].version if row_format in FORMATS else 1,
            files=used.files,
            columns=used.columns,
            expected_rows=dataset.expected_rows,
            left_out=raw.details().get("left_out", {}),
            turns=None if dataset.turns == _own_turns(row_format) else dataset.turns,
            repeated_roles=dataset.repeated_roles,
        )

    def build(self, into: Path) -> dict[str, Any]:
        files = [RowFile(path, FORMATS[self.format], self.columns) for path in self._files()]
        turns = TurnCounts()
        read = 0
        with (
            RowWriter(into / "examples.parquet", SCHEMA, "flag") as kept,
            RowWriter(into / "dropped.parquet", DROPPED_SCHEMA, "reason") as dropped,
        ):
            for file in files:
                with _source_named(self.raw, file.path):
                    read += self._sort_out(file, kept, dropped, turns)
        if not kept.rows:
            details = {why: what for file in files for why, what in file.details().items()}
            raise DataError(_none_usable(self._named(), read, dropped.counts(), details))
        account = RowAccount(
            read=read,
            kept=kept.rows,
            dropped=dropped.counts(),
            flagged=_single_flags(kept.counts()),
            turns=turns.account(),
        )
        warnings = self._unexpected(read) + self._warnings(files)
        return {
            "name": self.name,
            "account": account.model_dump(exclude_none=True),
            "warnings": warnings,
        }

    def _sort_out(
        self, file: RowFile, kept: RowWriter, dropped: RowWriter, turns: TurnCounts
    ) -> int:
        """Every row of the file to one of the two; how many there were."""
        rows = 0
        for table in in_order(partial(self._normalized, file), file.parts()):
            unusable = pc.is_valid(table["reason"])
            usable = table.filter(pc.invert(unusable))
            kept.write(usable)
            turns.add_normalized(table, usable)
            places = np.flatnonzero(unusable) + rows
            dropped.write(placed(table.filter(unusable), places, file.path.name))
            rows += table.num_rows
        file.check()
        return rows

    def _source(self) -> str:
        """The path or repository that the rows come from, else the data set's name."""
        details = self.raw.details()
        return str(details.get("path") or details.get("repo") or self.name)

    def _named(self) -> str:
        """The data set's name, with what its owner would look into."""
        source = self._source()
        return f"{self.name} ({source})" if source != self.name else self.name

    def _warnings(self, files: list[RowFile]) -> list[str]:
        """What is odd about the files as a whole."""
        warnings = [warning for file in files for warning in file.warnings()]
        warnings += left_out_warnings(self.name, self.left_out)
        unused = {name for file in files for name in file.unused()}
        if unused:
            warnings.append(unused_warning(f"data set {self.name}", sorted(unused)))
        return warnings

    def _files(self) -> list[Path]:
        """Return the files that were fetched, in the order of the patterns."""
        return raw_files(self.raw, self.files, self.name)

    def _normalized(self, file: RowFile, part: Part) -> pa.Table:
        rows = part()
        columns = list(file.format.columns)
        table = file.format.normalize(rows.select(columns), self._turn_settings())
        reason = pc.coalesce(rows[READ_REASON], table["reason"])
        source = pa.repeat(pa.scalar(self.name, pa.string()), table.num_rows)
        return (
            table.set_column(table.column_names.index("reason"), "reason", reason)
            .append_column("source", source)
            .append_column("id", as_ids(row_digests(table)))
        )

    def _turn_settings(self) -> TurnSettings:
        return TurnSettings(self.turns or FORMATS[self.format].turns, self.repeated_roles)

    def _unexpected(self, rows: int) -> list[str]:
        if self.expected_rows in (None, rows):
            return []
        return [
            f"data set {self.name}: {count_of(self.expected_rows or 0, 'row')} expected, {rows:,} "
            "found; the source has changed, or only a part of it is here."
        ]


def _own_turns(row_format: str) -> Turns | None:
    """What the format makes of a data set that does not say which turns; None before the format
    is known."""
    return FORMATS[row_format].turns if row_format in FORMATS else None


def raw_files(raw: Artifact, patterns: tuple[str, ...], name: str) -> list[Path]:
    """The files of a raw artifact that are read, in the order of the patterns."""
    root = raw.path / ROWS
    fetched = [path for path in root.rglob("*") if path.is_file()]
    if len(fetched) == 1:  # perhaps named by itself, whatever it is called
        return fetched
    return row_files(root, patterns, f"data set {name}").files


def _row_format(row_format: str, raw: Artifact, used: Dataset | Fallback, name: str) -> str:
    """What `auto` stands for, by the files themselves: then it and the format's name are the same
    request. Before the files are here nobody knows, and no request can be made of it."""
    if row_format != AUTO or raw.is_pending:
        return row_format
    files = raw_files(store().fetch(raw), used.files, name)
    with _source_named(raw, *files):
        return definite_format(row_format, files, used.columns)


def source_name(details: dict[str, Any], place: str) -> str:
    """What the owner of a source knows a file of it by.

    Args:
        details: Of the source's artifact.
        place: The file's path in it.
    """
    source = str(details.get("path") or details.get("repo") or "")
    if "split" in details:
        return f"{source}, split {details['split']}"
    return source if not source or Path(source).is_file() else str(Path(source) / place)


@contextmanager
def _source_named(raw: Artifact, *files: Path) -> Iterator[None]:
    """Faults name the files where their owner finds them, not the store's copies."""
    try:
        yield
    except DataError as error:
        sentence, details = str(error), raw.details()
        for file in files:
            place = file.relative_to(raw.path / ROWS).as_posix()
            sentence = sentence.replace(str(file), source_name(details, place) or str(file))
        raise DataError(sentence) from None


def _single_flags(counts: dict[str, int]) -> dict[str, int]:
    """Rows by each flag, where a row may have several."""
    single = Counter[str]()
    for flags, rows in counts.items():
        for flag in flags.split(FLAGS_BETWEEN):
            single[flag] += rows
    return ordered(single)


def _none_usable(name: str, read: int, dropped: dict[str, int], details: dict[str, str]) -> str:
    if not read:
        return f"data set {name}: has no rows."
    rows, reasons = count_of(read, "row"), counted_reasons(dropped, details)
    return f"data set {name}: none of {rows} can be used: {reasons}."


def _source_used(dataset: Dataset, raw: Artifact) -> Dataset | Fallback:
    """Whose files and columns these are: the data set's own, or those of a fallback."""
    repo = raw.details().get("repo") if dataset.fallbacks else None
    return next((other for other in dataset.fallbacks if other.repo == repo), dataset)

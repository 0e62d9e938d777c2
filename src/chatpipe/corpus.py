"""Rows of any format → examples → a corpus with a training and a held-out split.

Every row that is read is kept, or kept aside in `dropped.parquet` and counted under a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, model_validator

from chatpipe.artifacts import Artifact, Request
from chatpipe.config import Dataset, Fallback, Split
from chatpipe.data import FORMATS
from chatpipe.data.columns import unused_warning
from chatpipe.data.folders import ROWS, left_out_warnings, row_files
from chatpipe.data.formats import (
    FLAGS_BETWEEN,
    KEY_TWICE,
    NOT_TEXT,
    RAGGED,
    UNDECODABLE,
    counted_reasons,
)
from chatpipe.data.ids import (
    Digests,
    Mask,
    as_digests,
    as_ids,
    first_of_each,
    heldout_mask,
    text_digests,
)
from chatpipe.data.messages import NO_EXCHANGE, TOOL_CALL, WEIGHT_0
from chatpipe.data.parallel import in_order
from chatpipe.data.reading import READ_REASON, Part, RowFile, batches
from chatpipe.data.writing import RowWriter, count_values, ordered
from chatpipe.errors import DataError

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("instruction", "input", "output", "source", "id")]
)
DROPPED_SCHEMA = (
    SCHEMA.append(pa.field("reason", pa.string()))
    .append(pa.field("file", pa.string()))
    .append(pa.field("row", pa.int64()))
)
DUPLICATE = "duplicate"
# Rows without text, or whose text is not to be trained, whatever the split.
UNUSABLE = frozenset({NOT_TEXT, UNDECODABLE, RAGGED, KEY_TWICE, NO_EXCHANGE, TOOL_CALL, WEIGHT_0})


class RowAccount(BaseModel):
    """Where every row went: read = kept + Σ dropped. Flagged rows are kept, and counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: int
    kept: int
    dropped: dict[str, int] = {}
    flagged: dict[str, int] = {}

    @model_validator(mode="after")
    def _adds_up(self) -> RowAccount:
        if self.read != self.kept + sum(self.dropped.values()):
            raise ValueError(f"{self.read} rows read, but {self.kept} kept and {self.dropped}")
        return self


class Normalize(Request):
    """One data set's files → examples.parquet and dropped.parquet."""

    kind: ClassVar[str] = "examples"
    version: ClassVar[int] = 3

    raw: Artifact
    name: str
    format: str
    files: tuple[str, ...]
    columns: dict[str, str]
    expected_rows: int | None
    left_out: dict[str, str]  # files of the source that are not read, and why

    @classmethod
    def of(cls, dataset: Dataset, raw: Artifact) -> Normalize:
        """The request for that data set, whose files are `raw`."""
        used = _source_used(dataset, raw)
        return cls(
            raw=raw,
            name=dataset.name,
            format=dataset.format,
            files=used.files,
            columns=used.columns,
            expected_rows=dataset.expected_rows,
            left_out=raw.details().get("left_out", {}),
        )

    def build(self, into: Path) -> dict[str, Any]:
        files = [RowFile(path, FORMATS[self.format], self.columns) for path in self._files()]
        read = 0
        with (
            RowWriter(into / "examples.parquet", SCHEMA, "flag") as kept,
            RowWriter(into / "dropped.parquet", DROPPED_SCHEMA, "reason") as dropped,
        ):
            for file in files:
                with self._source_named(file.path):
                    read += self._sort_out(file, kept, dropped)
        if not kept.rows:
            details = {why: what for file in files for why, what in file.details().items()}
            raise DataError(_none_usable(self._named(), read, dropped.counts(), details))
        account = RowAccount(
            read=read,
            kept=kept.rows,
            dropped=dropped.counts(),
            flagged=_single_flags(kept.counts()),
        )
        warnings = self._unexpected(read) + self._warnings(files)
        return {"name": self.name, "account": account.model_dump(), "warnings": warnings}

    def _sort_out(self, file: RowFile, kept: RowWriter, dropped: RowWriter) -> int:
        """Every row of the file to one of the two; how many there were."""
        rows = 0
        for table in in_order(self._normalized, file.parts()):
            unusable = pc.is_valid(table["reason"])
            kept.write(table.filter(pc.invert(unusable)))
            places = np.flatnonzero(unusable) + rows
            dropped.write(_placed(table.filter(unusable), places, file.path.name))
            rows += table.num_rows
        file.check()
        return rows

    @contextmanager
    def _source_named(self, file: Path) -> Iterator[None]:
        """Faults name the file where its owner finds it, not the store's copy."""
        try:
            yield
        except DataError as error:
            source, place = Path(self._source()), file.relative_to(self.raw.path / ROWS)
            named = source if source.is_file() else source / place
            raise DataError(str(error).replace(str(file), str(named))) from None

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
        """Those that were fetched, in the order of the patterns."""
        root = self.raw.path / ROWS
        fetched = [path for path in root.rglob("*") if path.is_file()]
        if len(fetched) == 1:  # perhaps named by itself, whatever it is called
            return fetched
        return row_files(root, self.files, f"data set {self.name}").files

    def _normalized(self, part: Part) -> pa.Table:
        row_format = FORMATS[self.format]
        rows = part()
        table = row_format.normalize(rows.select(list(row_format.columns)))
        reason = pc.coalesce(rows[READ_REASON], table["reason"])
        source = pa.repeat(pa.scalar(self.name, pa.string()), table.num_rows)
        return (
            table.set_column(table.column_names.index("reason"), "reason", reason)
            .append_column("source", source)
            .append_column("id", as_ids(text_digests(table, ("instruction", "input", "output"))))
        )

    def _unexpected(self, rows: int) -> list[str]:
        if self.expected_rows in (None, rows):
            return []
        return [
            f"data set {self.name}: {self.expected_rows:,} rows expected, {rows:,} found; "
            "the source has changed, or only a part of it is here."
        ]


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
    return (
        f"data set {name}: none of {read:,} rows can be used: {counted_reasons(dropped, details)}."
    )


def _source_used(dataset: Dataset, raw: Artifact) -> Dataset | Fallback:
    """Whose files and columns these are: the data set's own, or those of a fallback."""
    repo = raw.details().get("repo") if dataset.fallbacks else None
    return next((other for other in dataset.fallbacks if other.repo == repo), dataset)


class Merge(Request):
    """Several data sets' examples → train.parquet, heldout.parquet, dropped.parquet."""

    kind: ClassVar[str] = "corpus"
    version: ClassVar[int] = 3

    examples: tuple[Artifact, ...]
    split: Split

    @classmethod
    def held_out_of(cls, examples: Artifact, split: Split) -> Merge:
        """The request whose held-out rows are those of one data set: the same whether or not a
        variant trains on them."""
        return cls(examples=(examples,), split=split.model_copy(update={"method": "hash"}))

    def build(self, into: Path) -> dict[str, Any]:
        first = first_of_each(self._digests())
        with (
            RowWriter(into / "train.parquet", SCHEMA, "source") as train,
            RowWriter(into / "heldout.parquet", SCHEMA) as heldout,
            RowWriter(into / "dropped.parquet", DROPPED_SCHEMA, "reason") as dropped,
        ):
            for sides in in_order(self._sides, self._parts(first)):
                train.write(sides.train)
                heldout.write(sides.heldout)
                dropped.write(sides.dropped)
            before, flagged = self._take_back(train, dropped) if self._keeps_all else (0, {})
        duplicates = int(np.count_nonzero(~first))
        if self._keeps_all:
            kept = train.rows
            flagged |= {DUPLICATE: duplicates} if duplicates else {}
        else:
            kept = train.rows + heldout.rows
            self._check_sides(train.rows, heldout.rows)
        account = RowAccount(
            read=len(first) + before, kept=kept, dropped=dropped.counts(), flagged=flagged
        )
        return {
            "account": account.model_dump(),
            "train_rows": train.rows,
            "heldout_rows": heldout.rows,
            "train_rows_by_source": train.counts(),
        }

    @property
    def _keeps_all(self) -> bool:
        """The paper's way: every row with text is trained on; what would go is only counted."""
        return self.split.method == "none"

    def _digests(self) -> Digests:
        """Those of all rows: 16 bytes a row are in memory at once, and no text."""
        parts = [as_digests(batch["id"]) for batch in self._batches("examples", ["id"])]
        return np.concatenate(parts)

    def _batches(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        for part in self.examples:
            yield from batches(part.path / f"{name}.parquet", columns)

    def _parts(self, first: Mask) -> Iterator[_Rows]:
        start = 0
        for batch in self._batches("examples"):
            table = pa.Table.from_batches([batch])
            yield _Rows(table, first[start : start + len(table)], start)
            start += len(table)

    def _sides(self, rows: _Rows) -> _Sides:
        held = rows.first & heldout_mask(rows.table, self.split.heldout)
        heldout = rows.table.filter(pa.array(held))
        if self._keeps_all:
            return _Sides(rows.table, heldout, DROPPED_SCHEMA.empty_table())
        again = np.flatnonzero(~rows.first)
        reasons = pa.repeat(pa.scalar(DUPLICATE, pa.string()), len(again))
        duplicates = rows.table.take(pa.array(again)).append_column("reason", reasons)
        aside = _placed(duplicates, again + rows.start, None)
        return _Sides(rows.table.filter(pa.array(rows.first & ~held)), heldout, aside)

    def _take_back(self, train: RowWriter, dropped: RowWriter) -> tuple[int, dict[str, int]]:
        """Train on what was dropped before and has text. How many rows were dropped before, and
        how many of them are back, by reason."""
        read, reasons = 0, Counter[str]()
        for batch in self._batches("dropped"):
            aside = pa.Table.from_batches([batch])
            unusable = pc.is_in(aside["reason"], pa.array(sorted(UNUSABLE), pa.string()))
            back = aside.filter(pc.invert(unusable))
            train.write(back)
            dropped.write(aside.filter(unusable))
            reasons += count_values(back["reason"])
            read += aside.num_rows
        return read, ordered(reasons)

    def _check_sides(self, train: int, heldout: int) -> None:
        if fault := split_fault(train, heldout, self.split.heldout):
            raise DataError(fault)


def split_fault(train: int, heldout: int, share: float) -> str | None:
    """What is wrong where a split leaves one of its sides without a row."""
    if train and heldout:
        return None
    return (
        f"the split leaves {train} of {train + heldout} rows to train on; "
        f"both sides need some: change split.heldout ({share}) or add rows."
    )


class _Rows(NamedTuple):
    """Rows of the merged examples as of `start`; `first`: whether each is the first of its id."""

    table: pa.Table
    first: Mask
    start: int


class _Sides(NamedTuple):
    """Where those rows go."""

    train: pa.Table
    heldout: pa.Table
    dropped: pa.Table


def _placed(table: pa.Table, rows: npt.NDArray[np.int64], file: str | None) -> pa.Table:
    """With the file and the row numbers that they come from."""
    files = pa.repeat(pa.scalar(file, pa.string()), len(rows))
    return table.append_column("file", files).append_column("row", pa.array(rows, pa.int64()))

"""Rows of any format → examples → a corpus with a training and a held-out split.

Every row that is read is kept, or kept aside in `dropped.parquet` and counted under a reason.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, model_validator

from chatpipe.artifacts import Artifact, Request
from chatpipe.config import Dataset, Fallback, Split
from chatpipe.data import FORMATS
from chatpipe.data.formats import NOT_TEXT, UNDECODABLE
from chatpipe.data.reading import READ_REASON, read_rows
from chatpipe.errors import DataError
from chatpipe.sources import ROWS, matching

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("instruction", "input", "output", "source", "id")]
)
DROPPED_SCHEMA = (
    SCHEMA.append(pa.field("reason", pa.string()))
    .append(pa.field("file", pa.string()))
    .append(pa.field("row", pa.int64()))
)
DUPLICATE = "duplicate"
# Rows without text have nothing to train on, whatever the split.
UNUSABLE = frozenset({NOT_TEXT, UNDECODABLE})


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
    version: ClassVar[int] = 1

    raw: Artifact
    name: str
    format: str
    files: tuple[str, ...]
    columns: dict[str, str]
    expected_rows: int | None

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
        )

    def build(self, into: Path) -> dict[str, Any]:
        found = matching(self.raw.path / ROWS, self.files, self.name)
        tables = [self._normalized(file) for file in found]
        table = pa.concat_tables(tables).combine_chunks()
        kept = table.filter(pc.is_null(table["reason"]))
        dropped = table.filter(pc.is_valid(table["reason"]))
        if not kept.num_rows:
            raise DataError(f"data set {self.name}: none of {table.num_rows} rows can be used.")
        pq.write_table(kept.select(SCHEMA.names).cast(SCHEMA), into / "examples.parquet")
        pq.write_table(dropped.select(DROPPED_SCHEMA.names), into / "dropped.parquet")
        account = RowAccount(
            read=table.num_rows,
            kept=kept.num_rows,
            dropped=_counts(dropped["reason"]),
            flagged=_counts(kept["flag"]),
        )
        difference = self._unexpected(table.num_rows)
        return {"name": self.name, "account": account.model_dump(), "warnings": difference}

    def _normalized(self, file: Path) -> pa.Table:
        row_format = FORMATS[self.format]
        rows = read_rows(file, row_format, self.columns)
        table = row_format.normalize(rows.select(list(row_format.columns)))
        count = table.num_rows
        reason = pc.coalesce(rows[READ_REASON], table["reason"])
        table = table.set_column(table.column_names.index("reason"), "reason", reason)
        return (
            table.append_column("source", pa.array([self.name] * count, pa.string()))
            .append_column("id", text_ids(table, ("instruction", "input", "output")))
            .append_column("file", pa.array([file.name] * count, pa.string()))
            .append_column("row", pa.array(range(count), pa.int64()))
        )

    def _unexpected(self, rows: int) -> list[str]:
        if self.expected_rows in (None, rows):
            return []
        return [
            f"data set {self.name}: {self.expected_rows:,} rows expected, {rows:,} found; "
            "the source has changed, or only a part of it is here."
        ]


def _source_used(dataset: Dataset, raw: Artifact) -> Dataset | Fallback:
    """Whose files and columns these are: the data set's own, or those of a fallback."""
    repo = raw.details().get("repo") if dataset.fallbacks else None
    return next((other for other in dataset.fallbacks if other.repo == repo), dataset)


class Merge(Request):
    """Several data sets' examples → train.parquet, heldout.parquet, dropped.parquet."""

    kind: ClassVar[str] = "corpus"
    version: ClassVar[int] = 1

    examples: tuple[Artifact, ...]
    split: Split

    def build(self, into: Path) -> dict[str, Any]:
        table = pa.concat_tables(
            pq.read_table(part.path / "examples.parquet") for part in self.examples
        )
        rows, again = _without_duplicates(table)
        if self.split.method == "none":
            return self._keep_all(into, table, again)
        heldout = heldout_mask(rows, self.split.heldout)
        train = rows.filter(pc.invert(heldout))
        if not train.num_rows or train.num_rows == rows.num_rows:
            raise DataError(
                f"the split leaves {train.num_rows} of {rows.num_rows} rows to train on; "
                f"both sides need some: change split.heldout ({self.split.heldout}) or add rows."
            )
        pq.write_table(train, into / "train.parquet")
        pq.write_table(rows.filter(heldout), into / "heldout.parquet")
        pq.write_table(again, into / "dropped.parquet")
        dropped = {DUPLICATE: again.num_rows} if again.num_rows else {}
        account = RowAccount(read=table.num_rows, kept=rows.num_rows, dropped=dropped)
        return self._details(account, train, rows.num_rows - train.num_rows)

    def _keep_all(self, into: Path, table: pa.Table, again: pa.Table) -> dict[str, Any]:
        """The paper's way: every row with text is trained on; what would go is only counted."""
        aside = pa.concat_tables(
            pq.read_table(part.path / "dropped.parquet") for part in self.examples
        )
        unusable = pc.is_in(aside["reason"], pa.array(sorted(UNUSABLE), pa.string()))
        back = aside.filter(pc.invert(unusable))
        gone = aside.filter(unusable)
        train = pa.concat_tables([table, back.select(SCHEMA.names)])
        unique, _ = _without_duplicates(table)
        pq.write_table(train, into / "train.parquet")
        heldout = unique.filter(heldout_mask(unique, self.split.heldout))
        pq.write_table(heldout, into / "heldout.parquet")
        pq.write_table(gone, into / "dropped.parquet")
        flagged = _counts(back["reason"])
        if again.num_rows:
            flagged[DUPLICATE] = again.num_rows
        account = RowAccount(
            read=table.num_rows + aside.num_rows,
            kept=train.num_rows,
            dropped=_counts(gone["reason"]),
            flagged=flagged,
        )
        return self._details(account, train, heldout.num_rows)

    def _details(self, account: RowAccount, train: pa.Table, heldout: int) -> dict[str, Any]:
        return {
            "account": account.model_dump(),
            "train_rows": train.num_rows,
            "heldout_rows": heldout,
            "train_rows_by_source": _counts(train["source"]),
        }


def text_ids(table: pa.Table, columns: tuple[str, ...]) -> pa.Array:
    """Hex SHA-256 (128 bits of it) of the rows' texts in those columns."""
    joined = pc.binary_join_element_wise(*(table[name] for name in columns), "\x1f")
    sha256 = hashlib.sha256
    return pa.array(
        [sha256(text.encode()).hexdigest()[:32] for text in joined.to_pylist()], pa.string()
    )


def heldout_mask(table: pa.Table, share: float) -> pa.Array:
    """True where a row is held out: decided by its prompt's hash alone, so that rows with one
    prompt stay together and no seed, order or company moves a row to the other side."""
    threshold = f"{int(share * 16**12):012x}"
    prompts = text_ids(table, ("instruction", "input"))
    return pc.less(pc.utf8_slice_codeunits(prompts, 0, 12), threshold)


def _without_duplicates(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The first of each id, and the later ones as dropped rows."""
    table = table.combine_chunks()
    position = pa.array(range(table.num_rows), pa.int64())
    first = (
        pa.table({"id": table["id"], "row": position})
        .group_by("id", use_threads=False)
        .aggregate([("row", "min")])["row_min"]
    )
    is_first = pc.is_in(position, first.combine_chunks())
    again = table.filter(pc.invert(is_first))
    count = again.num_rows
    aside = (
        again.append_column("reason", pa.array([DUPLICATE] * count, pa.string()))
        .append_column("file", pa.nulls(count, pa.string()))
        .append_column("row", position.filter(pc.invert(is_first)))
    )
    return table.filter(is_first), aside.cast(DROPPED_SCHEMA)


def _counts(column: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    """How often each value occurs, nulls left out, the most frequent first."""
    pairs = [(item["values"], item["counts"]) for item in pc.value_counts(column).to_pylist()]
    known = [(str(value), int(count)) for value, count in pairs if value is not None]
    return dict(sorted(known, key=lambda pair: (-pair[1], pair[0])))

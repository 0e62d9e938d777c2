"""Rows of any format → examples → a corpus with a training and a held-out split.

Every row that is read is kept, or kept aside in `dropped.parquet` and counted under a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.config.schema import Dedup, Split
from chatpipe.data.examples import DROPPED_SCHEMA, SCHEMA, placed, stored_examples
from chatpipe.data.hashing import Digests, Mask, as_digests, first_of_each, heldout_mask, share_mask
from chatpipe.data.near_duplicates import first_similar
from chatpipe.data.normalize import DUPLICATE, UNUSABLE, RowAccount
from chatpipe.data.parallel import in_order
from chatpipe.data.parquet_rows import batches
from chatpipe.data.turn_counts import TurnCounts, count_turns
from chatpipe.data.word_runs import row_texts
from chatpipe.data.writing import RowWriter, count_values, ordered
from chatpipe.errors import DataError
from chatpipe.store.artifact import Artifact, Request
from chatpipe.utils.quantities import count_of

BEYOND_SHARE = "beyond data_share"
NEAR_DUPLICATE = "near_duplicate"


class Merge(Request):
    """Several data sets' examples → train.parquet, heldout.parquet, dropped.parquet."""

    kind: ClassVar[str] = "corpus"
    version: ClassVar[int] = 3

    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset({"data_share", "dedup"})
    # "near" once compared a row with the first of each cluster alone.
    hash_as: ClassVar[Mapping[str, Mapping[Any, Any]]] = {"dedup": {"near": "near, all pairs"}}

    examples: tuple[Artifact, ...]
    split: Split
    data_share: float = 1.0  # of the training rows; held-out rows are always all
    # near: training rows that are like others, or like held-out ones, go too.
    dedup: Dedup = "exact"

    @classmethod
    def held_out_of(cls, examples: Artifact, split: Split) -> Merge:
        """The request whose held-out rows are those of one data set: the same whether or not a
        variant trains on them."""
        return cls(examples=(examples,), split=split.model_copy(update={"method": "hash"}))

    def build(self, into: Path) -> dict[str, Any]:
        first = first_of_each(self._digests())
        near = self._near_duplicates(first) if self.dedup == "near" else np.zeros_like(first)
        turns = TurnCounts()
        with (
            RowWriter(into / "train.parquet", SCHEMA, "source") as train,
            RowWriter(into / "heldout.parquet", SCHEMA) as heldout,
            RowWriter(into / "dropped.parquet", DROPPED_SCHEMA, "reason") as dropped,
        ):
            for sides in in_order(self._sides, self._parts(first, near)):
                train.write(sides.train)
                heldout.write(sides.heldout)
                dropped.write(sides.dropped)
                _count(turns, sides.dropped, [sides.train, sides.heldout][: 1 + self._is_split])
            before, flagged = (0, {}) if self._is_split else self._take_back(train, dropped, turns)
        duplicates = int(np.count_nonzero(~first))
        if not self._is_split:
            kept = train.rows
            flagged |= {DUPLICATE: duplicates} if duplicates else {}
        else:
            kept = train.rows + heldout.rows
            self._check_sides(train.rows, heldout.rows)
        account = RowAccount(
            read=len(first) + before,
            kept=kept,
            dropped=dropped.counts(),
            flagged=flagged,
            turns=turns.account(self._has_conversations()),
        )
        return {
            "account": account.model_dump(exclude_none=True),
            "train_rows": train.rows,
            "heldout_rows": heldout.rows,
            "train_rows_by_source": train.counts(),
        }

    @property
    def _is_split(self) -> bool:
        """False is the paper's way: every row with text is trained on; what would go is only
        counted."""
        return self.split.method != "none"

    def _has_conversations(self) -> bool:
        return any("turns" in part.details()["account"] for part in self.examples)

    def _digests(self) -> Digests:
        """Those of all rows: 16 bytes a row are in memory at once, and no text."""
        files = [part.path / "examples.parquet" for part in self.examples]
        parts = [as_digests(batch["id"]) for file in files for batch in batches(file, ["id"])]
        return np.concatenate(parts)

    def _tables(self, name: str = "examples") -> Iterator[pa.Table]:
        for part in self.examples:
            yield from stored_examples(part.path / f"{name}.parquet")

    def _parts(self, first: Mask, near: Mask) -> Iterator[_Rows]:
        start = 0
        for table in self._tables():
            rows = slice(start, start + len(table))
            yield _Rows(table, first[rows], near[rows], start)
            start += len(table)

    def _near_duplicates(self, first: Mask) -> Mask:
        """Training rows whose cluster has a held-out row, or an earlier training row. Held-out rows
        stay as they are, so that every model is scored on the same ones."""
        clusters = first_similar(text for table in self._tables() for text in row_texts(table))
        parts = [heldout_mask(table, self.split.heldout) for table in self._tables()]
        held = first & np.concatenate([np.zeros(0, np.bool_), *parts])
        train = np.flatnonzero(first & ~held)
        near = np.zeros_like(first)
        near[train] = True
        near[train[np.unique(clusters[train], return_index=True)[1]]] = False
        near[train] |= np.isin(clusters[train], clusters[held])
        return near

    def _sides(self, rows: _Rows) -> _Sides:
        held = rows.first & heldout_mask(rows.table, self.split.heldout)
        heldout = rows.table.filter(pa.array(held))
        if not self._is_split:
            return _Sides(rows.table, heldout, DROPPED_SCHEMA.empty_table())
        train = rows.first & ~held & ~rows.near
        aside = [_aside(rows, ~rows.first, DUPLICATE), _aside(rows, rows.near, NEAR_DUPLICATE)]
        if self.data_share < 1:
            within = share_mask(rows.table, self.data_share)
            aside.append(_aside(rows, train & ~within, BEYOND_SHARE))
            train &= within
        return _Sides(
            rows.table.filter(pa.array(train)),
            heldout,
            pa.concat_tables([table for table in aside if len(table)] or aside[:1]),
        )

    def _take_back(
        self, train: RowWriter, dropped: RowWriter, turns: TurnCounts
    ) -> tuple[int, dict[str, int]]:
        """Train on what was dropped before and has text. How many rows were dropped before, and
        how many of them are back, by reason."""
        read, reasons = 0, Counter[str]()
        for aside in self._tables("dropped"):
            unusable = pc.is_in(aside["reason"], pa.array(sorted(UNUSABLE), pa.string()))
            back = aside.filter(pc.invert(unusable))
            gone = aside.filter(unusable)
            train.write(back)
            dropped.write(gone)
            _count(turns, gone, [back])
            reasons += count_values(back["reason"])
            read += aside.num_rows
        return read, ordered(reasons)

    def _check_sides(self, train: int, heldout: int) -> None:
        if heldout and not train and self.data_share < 1:
            raise DataError(f"data_share {self.data_share:g} leaves no row to train on; raise it.")
        if fault := split_fault(train, heldout, self.split.heldout):
            raise DataError(fault)


def _count(turns: TurnCounts, dropped: pa.Table, kept: Sequence[pa.Table]) -> None:
    """Count the turns of rows that were read: those that are dropped, and those that are kept."""
    turns.add(count_turns(dropped) + sum(map(count_turns, kept)), kept)


def _aside(rows: _Rows, chosen: Mask, reason: str) -> pa.Table:
    """Those of the rows that are left out for that reason."""
    places = np.flatnonzero(chosen)
    reasons = pa.repeat(pa.scalar(reason, pa.string()), len(places))
    table = rows.table.take(pa.array(places)).append_column("reason", reasons)
    return placed(table, places + rows.start, None)


def split_fault(train: int, heldout: int, share: float) -> str | None:
    """What is wrong where a split leaves one of its sides without a row."""
    if train and heldout:
        return None
    return (
        f"the split leaves {train} of {count_of(train + heldout, 'row')} to train on; "
        f"both sides need some: change split.heldout ({share}) or add rows."
    )


class _Rows(NamedTuple):
    """Rows of the merged examples as of `start`; `first`: whether each is the first of its id;
    `near`: whether it is left out as a near-duplicate."""

    table: pa.Table
    first: Mask
    near: Mask
    start: int


class _Sides(NamedTuple):
    """Where those rows go."""

    train: pa.Table
    heldout: pa.Table
    dropped: pa.Table

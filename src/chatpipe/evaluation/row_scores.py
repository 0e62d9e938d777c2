"""A model's nats of the rows of a held-out set, and the rows that two models share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatpipe.store.artifact import Artifact

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.str_]


@dataclass(frozen=True)
class RowScores:
    """One counting ("response" or "all") of the rows that a model was scored on, in the order of
    their ids; each array (rows,)."""

    ids: Ids
    nats: Floats
    tokens: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, ids: Ids) -> RowScores:
        """Only the rows with those ids."""
        chosen = np.isin(self.ids, ids)
        return RowScores(self.ids[chosen], self.nats[chosen], self.tokens[chosen])


@dataclass(frozen=True)
class ModelScores:
    """A model's nats of a set: the union of its parts, a row that stands in two of them once."""

    scores: Mapping[str, Artifact]
    parts: tuple[str, ...]

    @cached_property
    def _table(self) -> pa.Table:
        parts = [pq.read_table(self.scores[part].path / "nats.parquet") for part in self.parts]
        return pa.concat_tables(parts)

    def labelled(self, labels: str) -> RowScores:
        """The rows as that counting has them."""
        table = self._table.filter(pc.equal(self._table["labels"], labels))
        ids, first = np.unique(table["id"].to_numpy().astype(str), return_index=True)
        return RowScores(
            ids,
            table["nats"].to_numpy().astype(np.float64)[first],
            table["tokens"].to_numpy().astype(np.float64)[first],
        )


def common_rows(first: RowScores, second: RowScores) -> tuple[RowScores, RowScores]:
    """Both models' scores of the rows that both were scored on, in one order.

    Raises ValueError where a row's scored tokens are not as many in both: such figures are of
    different texts.
    """
    ids = np.intersect1d(first.ids, second.ids)
    pair = first.rows_of(ids), second.rows_of(ids)
    unlike = int(np.count_nonzero(pair[0].tokens != pair[1].tokens))
    if unlike:
        raise ValueError(f"{unlike:,} of {len(ids):,} rows have another number of scored tokens")
    return pair


def groups_by_tokens(scores: Mapping[str, RowScores]) -> list[list[str]]:
    """The names in groups with the same number of scored tokens in every row that they share.

    Two tokenizers differ in some row's number; models without a common row are not told apart.
    """
    groups: list[list[str]] = []
    for name, rows in scores.items():
        alike = (group for group in groups if _same_tokens(scores[group[0]], rows))
        group = next(alike, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def _same_tokens(first: RowScores, second: RowScores) -> bool:
    try:
        common_rows(first, second)
    except ValueError:
        return False
    return True


def count_in_training(corpus: Artifact | None, ids: Ids) -> int:
    """How many of those rows stand in the training split of that corpus."""
    if corpus is None:
        return 0
    train = pq.read_table(corpus.path / "train.parquet", columns=["id"])["id"]
    in_training = pc.is_in(pa.array(ids, pa.string()), train.combine_chunks())
    return int(pc.sum(in_training).as_py() or 0)

"""A model's nats of the rows of a held-out set, and the rows that two models share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from xxhash import xxh3_128_digest

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


class ScoreReader:
    """Models' nats of held-out rows, each file read once for all comparisons of a report.

    Models that were scored on the same rows share the array of their ids: texts take far more
    memory than figures.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], RowScores] = {}  # by the file's artifact and the counting
        self._ids: dict[bytes, Ids] = {}
        self._in_training: dict[tuple[str, bytes], int] = {}

    def rows(self, scores: Mapping[str, Artifact], parts: Sequence[str], labels: str) -> RowScores:
        """Return a model's rows of the union of these parts, as that counting has them; a row of
        two parts is there once."""
        of_parts = [self._of_part(scores[part], labels) for part in parts]
        if len(of_parts) == 1:
            return of_parts[0]
        return self._distinct(
            np.concatenate([rows.ids for rows in of_parts]),
            np.concatenate([rows.nats for rows in of_parts]),
            np.concatenate([rows.tokens for rows in of_parts]),
        )

    def _of_part(self, scores: Artifact, labels: str) -> RowScores:
        key = str(scores.path), labels
        if key not in self._rows:
            # Not by `read_table`, which imports pandas: a half second of a run that is all cached.
            with pq.ParquetFile(scores.path / "nats.parquet") as file:
                table = file.read()
            for counting in {labels, *table["labels"].unique().to_pylist()}:
                rows = table.filter(pc.equal(table["labels"], counting))
                self._rows[key[0], counting] = self._distinct(
                    rows["id"].to_numpy().astype(str),
                    rows["nats"].to_numpy().astype(np.float64),
                    rows["tokens"].to_numpy().astype(np.float64),
                )
        return self._rows[key]

    def _distinct(self, ids: Ids, nats: Floats, tokens: Floats) -> RowScores:
        ids, first = np.unique(ids, return_index=True)
        shared = self._ids.setdefault(xxh3_128_digest(ids.tobytes()), ids)
        return RowScores(shared, nats[first], tokens[first])

    def count_in_training(self, corpus: Artifact | None, ids: Ids) -> int:
        """Return how many of those rows stand in the training split of that corpus."""
        if corpus is None:
            return 0
        key = str(corpus.path), xxh3_128_digest(ids.tobytes())
        if key not in self._in_training:
            train = pq.read_table(corpus.path / "train.parquet", columns=["id"])["id"]
            is_trained = pc.is_in(pa.array(ids, pa.string()), train.combine_chunks())
            self._in_training[key] = int(pc.sum(is_trained).as_py() or 0)
        return self._in_training[key]


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

"""Held-out rows of one's own: a data set's rows without those whose prompt is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.config.schema import Split
from chatpipe.data.examples import DROPPED_SCHEMA, SCHEMA, placed, stored_examples
from chatpipe.data.hashing import (
    Digests,
    Mask,
    as_digests,
    first_of_each,
    heldout_mask,
    prompt_digests,
)
from chatpipe.data.normalize import DUPLICATE, RowAccount
from chatpipe.data.writing import RowWriter
from chatpipe.errors import DataError
from chatpipe.formats.base import counted_reasons
from chatpipe.store.artifact import Artifact, Request, recorded_manifest

TRAINED_ON = "with a prompt that is among the training rows of {}"


class HoldOut(Request):
    """One data set's examples → heldout.parquet and dropped.parquet.

    As in a split, prompts decide: a row is dropped where a training row begins with its prompt.

    Attributes:
        examples: The rows to hold out.
        trained_on: The examples of all data sets that models are trained on which are scored on
            these rows.
        split: How those are split; rows on their held-out side are not trained on.
    """

    kind: ClassVar[str] = "heldout"
    version: ClassVar[int] = 1

    examples: Artifact
    trained_on: tuple[Artifact, ...]
    split: Split

    def build(self, into: Path) -> dict[str, Any]:
        rows = pa.concat_tables(stored_examples(self.examples.path / "examples.parquet"))
        reasons = self._reasons(rows)
        is_dropped = pc.is_valid(reasons)
        with (
            RowWriter(into / "heldout.parquet", SCHEMA) as heldout,
            RowWriter(into / "dropped.parquet", DROPPED_SCHEMA, "reason") as dropped,
        ):
            heldout.write(rows.filter(pc.invert(is_dropped)))
            aside = rows.append_column("reason", reasons).filter(is_dropped)
            dropped.write(placed(aside, np.flatnonzero(is_dropped), None))
        if not heldout.rows:
            name = recorded_manifest(self.examples)["asked"]["name"]
            raise DataError(
                f"heldout {name}: none of {len(rows):,} rows is left to score: "
                f"{counted_reasons(dropped.counts())}; take rows that no variant is trained on."
            )
        account = RowAccount(read=len(rows), kept=heldout.rows, dropped=dropped.counts())
        return {
            "account": account.model_dump(exclude_none=True),
            "heldout_rows": heldout.rows,
        }

    def _reasons(self, rows: pa.Table) -> pa.Array:
        """Return why each row is dropped; null where it is kept."""
        first = first_of_each(as_digests(rows["id"]))
        prompts = prompt_digests(rows)
        reasons = pc.if_else(pa.array(first), pa.scalar(None, pa.string()), DUPLICATE)
        for part in self.trained_on:
            reason = TRAINED_ON.format(recorded_manifest(part)["asked"]["name"])
            seen = pa.array(self._is_trained_on(prompts, part))
            reasons = pc.coalesce(reasons, pc.if_else(seen, reason, pa.scalar(None, pa.string())))
        return reasons

    def _is_trained_on(self, prompts: Digests, part: Artifact) -> Mask:
        """Return whether a training row of that data set begins with each of the prompts."""
        seen = np.zeros(len(prompts), np.bool_)
        for table in self._training_rows(part):
            trained = prompt_digests(table)
            if self.split.method != "none":
                trained = trained[~heldout_mask(table, self.split.heldout)]
            seen |= _is_in(prompts, trained)
        return seen

    def _training_rows(self, part: Artifact) -> Iterator[pa.Table]:
        """Yield the rows that may be trained on: without a split, those of a text that was dropped
        as well."""
        yield from stored_examples(part.path / "examples.parquet")
        if self.split.method == "none":
            yield from stored_examples(part.path / "dropped.parquet")


def _is_in(digests: Digests, others: Digests) -> Mask:
    """Return whether each digest is among the others, by all of its 128 bits."""
    likely = others[np.isin(others[:, 0], digests[:, 0])]
    exact = set(map(tuple, likely.tolist()))
    return np.array([tuple(digest) in exact for digest in digests.tolist()], np.bool_)

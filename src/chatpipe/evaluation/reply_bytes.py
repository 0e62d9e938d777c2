"""The UTF-8 bytes of held-out replies: a length that no tokenizer changes.

They are counted in the held-out rows, so scores of any age have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatpipe.evaluation.row_scores import Floats, Ids
from chatpipe.store.artifact import Artifact


@dataclass(frozen=True)
class ReplyBytes:
    """All rows of a held-out set, those too long to score included, in the order of their ids;
    each array (rows,)."""

    ids: Ids
    bytes: Floats

    @classmethod
    def read(cls, heldout: Mapping[str, Artifact], parts: Iterable[str]) -> ReplyBytes:
        """Read the union of those data sets' held-out rows; a row of two of them counts once."""
        tables = [_ids_and_bytes(heldout[part]) for part in parts]
        table = pa.concat_tables(tables)
        ids, first = np.unique(table["id"].to_numpy().astype(str), return_index=True)
        return cls(ids, table["bytes"].to_numpy().astype(np.float64)[first])

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: Ids) -> Floats:
        """Return the bytes of the rows with those ids, in their order; all must be in the set."""
        return self.bytes[np.searchsorted(self.ids, ids)]


def _ids_and_bytes(heldout: Artifact) -> pa.Table:
    table = pq.read_table(heldout.path / "heldout.parquet", columns=["id", "output"])
    return pa.table(
        {
            "id": table["id"].cast(pa.string()),
            "bytes": pc.binary_length(table["output"]).cast(pa.int64()),
        }
    )

"""The UTF-8 bytes of held-out replies, all of a conversation: a length that no tokenizer changes.

They are counted in the held-out rows, so scores of any age have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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
    file = heldout.path / "heldout.parquet"
    earlier = [name for name in pq.read_schema(file).names if name == "history"]
    table = pq.read_table(file, columns=["id", "output", *earlier])
    sizes = pc.binary_length(table["output"]).to_numpy().astype(np.int64)
    if earlier:
        sizes += _earlier_bytes(table["history"].combine_chunks())
    return pa.table({"id": table["id"].cast(pa.string()), "bytes": pa.array(sizes)})


def _earlier_bytes(history: pa.ListArray) -> npt.NDArray[np.int64]:
    """(rows,), the bytes of the earlier replies."""
    if pa.types.is_null(history.type):
        return np.zeros(len(history), np.int64)
    turns, rows = pc.list_flatten(history), pc.list_parent_indices(history).to_numpy()
    is_reply = pc.equal(pc.struct_field(turns, "role"), "assistant").to_numpy(zero_copy_only=False)
    sizes = pc.binary_length(pc.struct_field(turns, "content")).to_numpy()
    return np.bincount(rows, sizes * is_reply, len(history)).astype(np.int64)

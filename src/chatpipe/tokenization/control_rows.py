"""How many rows spell out a control token of the tokenizer, which stays text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.tokenization.text_encoder import TextEncoder
from chatpipe.tokenization.token_cache import TEXTS


class ControlRows:
    """Counts the rows whose text spells out a control token."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.rows = 0
        self._encoder = encoder

    def counted(self, table: pa.Table) -> pa.Table:
        """The table, whose rows are counted."""
        spelled = np.zeros(table.num_rows, np.bool_)
        for name in (*TEXTS, "system"):
            if name in table.column_names:
                spelled |= self._spelled(table[name])
        if "history" in table.column_names and not pa.types.is_null(table["history"].type):
            history = table["history"].combine_chunks()
            contents = pc.struct_field(pc.list_flatten(history), "content")
            spelled[pc.list_parent_indices(history).to_numpy()[self._spelled(contents)]] = True
        self.rows += int(spelled.sum())
        return table

    def _spelled(self, texts: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bool_]:
        spelled = self._encoder.holds_control(texts).fill_null(False)
        return np.asarray(spelled.to_numpy(zero_copy_only=False), np.bool_)

"""A text and what follows it: prompt → instruction, completion → output.

A row: {"prompt": "The capital of France is", "completion": " Paris."}
"""

from __future__ import annotations

import pyarrow as pa

from chatpipe.formats.base import Column, Format, normalized


def _normalize(table: pa.Table) -> pa.Table:
    no_input = pa.nulls(table.num_rows, pa.string())
    return normalized(table["prompt"], no_input, table["completion"])


FORMAT = Format(
    columns={"prompt": Column(pa.string()), "completion": Column(pa.string())},
    normalize=_normalize,
)

"""Alpaca rows: instruction, input, output, kept as they are.

A row: {"instruction": "Name a prime.", "input": "", "output": "Seven."}
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.formats.base import Column, Format, normalized
from chatpipe.utils.text import has_byte

NOINPUT = "<noinput> marker"


def _normalize(table: pa.Table) -> pa.Table:
    flag = None
    if has_byte(table["input"], ord("<")):
        texts = pc.fill_null(table["input"], "")
        marked = pc.match_substring(texts, "<noinput>", ignore_case=True)
        flag = pc.if_else(marked, NOINPUT, pa.scalar(None, pa.string()))
    return normalized(table["instruction"], table["input"], table["output"], flag=flag)


FORMAT = Format(
    columns={
        "instruction": Column(pa.string()),
        "input": Column(pa.string(), required=False),
        "output": Column(pa.string()),
    },
    normalize=_normalize,
)

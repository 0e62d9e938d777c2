"""Alpaca rows: instruction, input, output, kept as they are.

A row: {"instruction": "Name a prime.", "input": "", "output": "Seven."}
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.config.schema import Dataset
from chatpipe.data.formats.base import Column, Format, normalized
from chatpipe.data.text import has_byte

ALPACA = Dataset(
    name="alpaca",
    repo="tatsu-lab/alpaca",
    files=("data/*.parquet",),
    format="alpaca",
    licence="CC-BY-NC-4.0",
    expected_rows=52_002,
)
SAMPLE_ALPACA = Dataset(
    name="sample-alpaca",
    path="packaged:samples/alpaca",
    files=("*.jsonl",),
    format="alpaca",
    licence="CC0-1.0",
    expected_rows=220,
)
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

"""Chat messages: the first user turn → instruction, the assistant's answer to it → output.

A row: {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
"""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa

from chatpipe.data.formats import Column, Format, normalized

NO_EXCHANGE = "no user turn followed by an assistant turn"


def _normalize(table: pa.Table) -> pa.Table:
    # Turns are few and ragged: a row's exchange is found in Python, the rest is columnar.
    pairs = [_first_exchange(turns or []) for turns in table["messages"].to_pylist()]
    instruction = pa.array([pair and pair[0] for pair in pairs], pa.string())
    output = pa.array([pair and pair[1] for pair in pairs], pa.string())
    reason = pa.array([None if pair else NO_EXCHANGE for pair in pairs], pa.string())
    return normalized(instruction, pa.nulls(len(pairs), pa.string()), output, reason)


def _first_exchange(turns: list[dict[str, str | None]]) -> tuple[str | None, str | None] | None:
    for turn, reply in pairwise(turns):
        if turn["role"] == "user" and reply["role"] == "assistant":
            return turn["content"], reply["content"]
    return None


FORMAT = Format(
    columns={
        "messages": Column(pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))
    },
    normalize=_normalize,
)

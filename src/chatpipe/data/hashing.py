"""What a row's text is known by: a content hash, the same wherever and beside whatever it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from chatpipe.utils.text import trimmed

TEXTS = ("instruction", "input", "output")  # of an example
SEPARATOR = b"\x1f"
DIGEST = 16  # bytes; that two of 10 million texts share all 128 bits has a chance of 1 in 10**24

# (rows, 2): a digest as two big-endian numbers, whose order is that of the digests.
Digests = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def text_digests(table: pa.Table, columns: Sequence[str]) -> bytes:
    """The XXH3 hash (128 bits) of every row's texts in those columns, end to end."""
    if not table.num_rows:
        return b""
    texts = [table[name].combine_chunks().cast(pa.binary()) for name in columns]
    joined = pc.binary_join_element_wise(*texts, SEPARATOR)
    _, places, text = joined.buffers()
    ends = np.frombuffer(places, np.int32, len(joined) + 1, joined.offset * 4).tolist()
    whole = memoryview(text or b"")
    return b"".join([xxh3_128_digest(whole[start:end]) for start, end in pairwise(ends)])


def row_digests(table: pa.Table) -> bytes:
    """The hash of every example, end to end: of its three texts; where it has a system text or
    earlier turns, of these too. Their columns may be missing."""
    digests = text_digests(table, TEXTS)
    names = [name for name in ("system", "history") if name in table.column_names]
    places = _valid_places(table, names)
    if not len(places):
        return digests
    whole = bytearray(digests)
    for place, row in zip(
        places.tolist(), table.select(names).take(pa.array(places)).to_pylist(), strict=True
    ):
        here = slice(place * DIGEST, (place + 1) * DIGEST)
        turns = [[turn["role"], turn["content"]] for turn in row.get("history") or ()]
        before = json.dumps([row.get("system"), turns]).encode()
        whole[here] = xxh3_128_digest(whole[here] + before)
    return bytes(whole)


def _valid_places(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The rows in which one of the columns is not null."""
    valid = np.zeros(table.num_rows, np.bool_)
    for name in names:
        if table[name].null_count < table.num_rows:
            valid |= table[name].is_valid().to_numpy()
    return np.flatnonzero(valid)


def as_ids(digests: bytes) -> pa.Array:
    """Digests, end to end, as a column of hex strings."""
    rows = len(digests) // DIGEST
    places = np.arange(rows + 1, dtype=np.int32) * (2 * DIGEST)
    text = digests.hex().encode()
    return pa.StringArray.from_buffers(rows, pa.py_buffer(places), pa.py_buffer(text))


def as_digests(ids: pa.ChunkedArray | pa.Array) -> Digests:
    """The inverse of `as_ids`, as numbers."""
    return joined_digests([bytes.fromhex("".join(ids.to_pylist()))])


def joined_digests(parts: Sequence[bytes]) -> Digests:
    """Hashes, end to end in each part, as numbers."""
    return np.frombuffer(b"".join(parts), ">u8").astype(np.uint64).reshape(-1, 2)


def first_of_each(digests: Digests) -> Mask:
    """True where a row's digest occurs for the first time."""
    rows = len(digests)
    order = np.argsort(digests[:, 0], kind="stable")
    high = digests[order, 0]
    again = np.flatnonzero(high[1:] == high[:-1]) + 1
    low = digests[:, 1]
    if np.any(low[order[again]] != low[order[again - 1]]):
        # Two texts share 64 bits: rows of one text may lie apart in that order.
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        ordered = digests[order]
        again = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1)) + 1
    first = np.ones(rows, np.bool_)
    first[order[again]] = False
    return first


def heldout_mask(table: pa.Table, share: float) -> Mask:
    """True where a row is held out: decided by the hash of its first user turn alone, so that rows
    that begin with one prompt stay together and no seed, order or company moves a row to the other
    side. White space around it makes no other prompt."""
    return _below(prompt_digests(table)[:, 0], share)


def share_mask(table: pa.Table, share: float) -> Mask:
    """True where a row belongs to that share of the data, decided like `heldout_mask` by other bits
    of the same hash: the rows of a smaller share are among those of a larger one."""
    return _below(prompt_digests(table)[:, 1], share)


def share_order(table: pa.Table) -> npt.NDArray[np.int64]:
    """The rows in the order in which a growing share takes them."""
    return np.argsort(prompt_digests(table)[:, 1], kind="stable")


def prompt_digests(table: pa.Table) -> Digests:
    """Return the hash of the first user turn of each row."""
    names = ("instruction", "input")
    texts = [trimmed(text) for text in _first_user_texts(table)]
    digests = text_digests(pa.table(texts, names=names), names)
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def _below(numbers: npt.NDArray[np.uint64], share: float) -> Mask:
    return np.asarray((numbers >> np.uint64(16)) < np.uint64(int(share * 2**48)), np.bool_)


def _first_user_texts(table: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The first user turn of every row, as instruction and input."""
    instruction, input_text = (table[name].combine_chunks() for name in ("instruction", "input"))
    if "history" not in table.column_names or table["history"].null_count == table.num_rows:
        return instruction, input_text
    history = table["history"].combine_chunks()
    has_history = history.is_valid()
    first = pc.struct_field(pc.list_element(history, 0), "content")
    return pc.if_else(has_history, first, instruction), pc.if_else(has_history, "", input_text)

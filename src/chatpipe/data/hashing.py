"""What a row's text is known by: a content hash, the same wherever and beside whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from chatpipe.utils.text import trimmed

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


def as_ids(digests: bytes) -> pa.Array:
    """Digests, end to end, as a column of hex strings."""
    rows = len(digests) // DIGEST
    places = np.arange(rows + 1, dtype=np.int32) * (2 * DIGEST)
    text = digests.hex().encode()
    return pa.StringArray.from_buffers(rows, pa.py_buffer(places), pa.py_buffer(text))


def as_digests(ids: pa.ChunkedArray | pa.Array) -> Digests:
    """The inverse of `as_ids`, as numbers."""
    text = "".join(ids.to_pylist())
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64).reshape(-1, 2)


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
    """True where a row is held out: decided by its prompt's hash alone, so that rows with one
    prompt stay together and no seed, order or company moves a row to the other side. White space
    around it makes no other prompt."""
    names = ("instruction", "input")
    texts = [trimmed(table[name].combine_chunks()) for name in names]
    prompts = np.frombuffer(text_digests(pa.table(texts, names=names), names), ">u8")[::2]
    return (prompts >> np.uint64(16)) < np.uint64(int(share * 2**48))

"""What a row's text is known by: a content hash, the same wherever and beside whatever it is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SEPARATOR = "\x1f"
DIGEST = 16  # bytes of the SHA-256 that are kept: no two of 10 million rows share 128 bits

# (rows, 2): a digest as two big-endian numbers, whose order is that of the digests.
Digests = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def text_digests(table: pa.Table, columns: Sequence[str]) -> bytes:
    """The first 16 bytes of the SHA-256 of every row's texts in those columns, end to end."""
    texts = [_bytes(table[name]) for name in columns]
    joined = pc.binary_join_element_wise(*texts, SEPARATOR.encode())
    _, places, text = joined.buffers()
    ends = np.frombuffer(places, np.int32)[joined.offset : joined.offset + len(joined) + 1].tolist()
    whole, sha256 = memoryview(text or b""), hashlib.sha256
    digests = b"".join([sha256(whole[start:end]).digest() for start, end in pairwise(ends)])
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)[:, :DIGEST].tobytes()


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
    prompt stay together and no seed, order or company moves a row to the other side."""
    prompts = np.frombuffer(text_digests(table, ("instruction", "input")), ">u8")[::2]
    return (prompts >> np.uint64(16)) < np.uint64(int(share * 2**48))


def _bytes(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().cast(pa.binary())

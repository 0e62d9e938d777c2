"""The C library's memory allocator, where a model computes on CPUs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = -1
# What glibc comes to by itself, at most; it ceases to do so once it is told anything.
MOST_MMAP_THRESHOLD = 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)
DEFAULT_MMAP_MAX = 65536


def expect_large_blocks() -> None:
    """Have glibc keep freed memory as it does once blocks of MOST_MMAP_THRESHOLD were allocated and
    freed. Until then it hands what a layer frees back to the kernel, and the next one has to ask
    for it again: a first pass took 5 % longer."""
    library = _glibc()
    if library is not None:
        library.mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD)
        library.mallopt(M_TRIM_THRESHOLD, 2 * MOST_MMAP_THRESHOLD)


@contextmanager
def kept_memory() -> Iterator[None]:
    """While this lasts, memory that is freed stays with the process, for what it allocates next;
    then it is given back.

    Every step of a training frees what it held and needs as much again at once. glibc hands such
    blocks back to the kernel, which has to clear every page of them anew. Without glibc, nothing
    happens here.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        expect_large_blocks()
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None

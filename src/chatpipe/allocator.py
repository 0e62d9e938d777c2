"""The C library's memory allocator, while a model is trained on CPUs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = -1
# What glibc comes to by itself, which it ceases to do once it is told anything.
MOST_MMAP_THRESHOLD = 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)
DEFAULT_MMAP_MAX = 65536


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
        library.mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD)
        library.mallopt(M_TRIM_THRESHOLD, 2 * MOST_MMAP_THRESHOLD)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None

"""bzip2 and xz as streams of which every byte counts: Python's own readers pass over what follows
the packed data, and so over rows, where a file was put together from several."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, Protocol

CHUNK_BYTES = 1 << 18


class Decompressor(Protocol):
    """What bz2.BZ2Decompressor and lzma.LZMADecompressor have in common; for one stream."""

    @property
    def eof(self) -> bool:
        """Whether the stream's end was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes without more packed bytes."""

    @property
    def unused_data(self) -> bytes:
        """The bytes after the stream's end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most so many unpacked bytes."""


class PackedStream(io.RawIOBase):
    """The unpacked bytes of a file of one or more packed streams.

    EOFError where the last one is cut off, OSError where one is followed by something else.
    """

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Decompressor]) -> None:
        self._file = file
        self._new = decompressor
        self._decompressor = decompressor()
        self._is_first = True

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with the next bytes; 0 at the end of the file."""
        while True:
            packed = b""
            if self._decompressor.eof:
                packed = self._decompressor.unused_data or self._file.read(CHUNK_BYTES)
                if not packed:
                    return 0
                self._decompressor, self._is_first = self._new(), False
            elif self._decompressor.needs_input:
                packed = self._file.read(CHUNK_BYTES)
                if not packed:
                    raise EOFError("it ends before its packed data does")
            unpacked = self._unpacked(packed, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)

    def _unpacked(self, packed: bytes, limit: int) -> bytes:
        try:
            return self._decompressor.decompress(packed, limit)
        except Exception as error:
            if self._is_first:
                raise
            raise OSError("other bytes follow the packed data; pack it anew") from error

"""A row file's bytes: unpacked, in UTF-8, without a byte order mark, and which kind they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from chatpipe.data.packed_streams import PackedStream
from chatpipe.errors import DataError

Kind = Literal["parquet", "jsonl", "json", "csv"]
KINDS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".ndjson": "jsonl",
    ".tsv": "csv",
}
SUFFIXES = tuple(KINDS)
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
HEAD_BYTES = 1 << 16
PARQUET = b"PAR1"
GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"(\xb5/\xfd"
ZIP = b"PK\x03\x04"
START_BYTES = 64  # tell what a file is
WEB_PAGE = (b"<!doctype html", b"<html")
LFS = b"version https://git-lfs"
BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
# What the libraries raise for files that are broken, cut off, or not what their name says.
READ_ERRORS = (pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError)


def kind_of(path: Path) -> Kind | None:
    """What a file's name says that it is, packed or not, in whichever case; None where it says
    nothing of rows."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return KINDS.get(Path(name).suffix)


def content_kind(path: Path) -> Kind:
    """What the file is; DataError where it is not a file of rows."""
    kind = kind_of(path)
    if kind is None:
        endings = ", ".join(SUFFIXES)
        raise DataError(f"{path}: a row file ends in {endings}; rename or convert it.")
    if fault := name_fault(path):
        raise DataError(fault)
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if start.startswith(LFS):
        raise DataError(
            f"{path}: is a pointer of Git LFS, the rows are not here; fetch them with `git lfs "
            "pull`."
        )
    if start.startswith(ZIP):
        raise DataError(f"{path}: is a ZIP archive; unpack it.")
    if start.startswith(PARQUET):
        return "parquet"
    if kind != "parquet" and _is_binary(start):
        raise DataError(f"{path}: is a binary file, not rows of text; name the file of rows.")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.lower().startswith(WEB_PAGE):
        raise DataError(f"{path}: is a web page (HTML), not rows; download it again.")
    if kind == "csv" and text.startswith((b'{"', b"[{", b"[\n")):
        raise DataError(f"{path}: is JSON, not CSV; name it .jsonl (a row a line) or .json.")
    if kind == "parquet" and start.startswith((GZIP, BZIP2, XZ, ZSTD)):
        raise DataError(f"{path}: is a packed Parquet file; unpack it.")
    return kind


def _is_binary(start: bytes) -> bool:
    """Whether these first bytes are those of a program, an image or another file without text."""
    if start.startswith((GZIP, BZIP2, XZ, ZSTD)) or _encoding(start[:4]):
        return False
    # A file of rows may have a NUL in a row. It begins with a printable character, as JSON and CSV
    # do; binary files with NULs hardly ever do.
    return start.startswith(b"%PDF-") or (b"\0" in start and not 0x20 <= start[0] < 0x7F)


def name_fault(path: Path) -> str:
    """A sentence where the path cannot be written down, else nothing."""
    shown = as_text(str(path))
    return f"{shown}: its name is not UTF-8 text; rename it." if shown != str(path) else ""


def as_text(name: str) -> str:
    """The name with every byte that is no UTF-8 written out."""
    return name.encode("utf-8", "backslashreplace").decode()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's text as UTF-8 bytes without a byte order mark; UnicodeDecodeError where text of
    another encoding is broken."""
    with _unpacked(path) as packed:
        start = packed.read(4)
    encoding = _encoding(start)
    with _unpacked(path) as file:
        if encoding is None:
            yield file
        elif encoding == "utf-8-sig":
            file.read(3)
            yield file
        else:
            text = io.TextIOWrapper(file, encoding, newline="")
            yield io.BufferedReader(_Encoded(text), 1 << 20)


def head(path: Path) -> bytes:
    """The first bytes of the text."""
    with opened(path) as file:
        return file.read(HEAD_BYTES)


def not_utf8(path: Path) -> DataError:
    """The fault of a file of which a line is no UTF-8, with the line's number."""
    number = 0
    try:
        with opened(path) as file:
            for line in file:
                number += 1
                line.decode()
    except UnicodeDecodeError as error:
        if error.encoding == "utf-8":
            byte = error.object[error.start]
            return DataError(
                f"{path}: line {number} is not UTF-8 text (byte 0x{byte:02x}); it may be "
                "Windows-1252 or Latin-1: convert it with iconv -f WINDOWS-1252 -t UTF-8."
            )
        return DataError(
            f"{path}: line {number + 1} is not {error.encoding.upper()} text ({error.reason})."
        )
    except UnicodeError as error:
        return DataError(f"{path}: {error}.")
    return DataError(f"{path}: is not UTF-8 text.")


def _encoding(start: bytes) -> str | None:
    """The encoding that the first bytes tell of; None: UTF-8, as nearly all files are."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if len(start) == 4 and start[1] == 0 and start[3] == 0 and start[0] and start[2]:
        return "utf-16-le"
    if len(start) == 4 and start[0] == 0 and start[2] == 0 and start[1] and start[3]:
        return "utf-16-be"
    return None


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        stream: Any
        if start.startswith(GZIP):
            stream = gzip.GzipFile(fileobj=file)
        elif start.startswith(BZIP2):
            stream = PackedStream(file, bz2.BZ2Decompressor)
        elif start.startswith(XZ):
            stream = PackedStream(file, lzma.LZMADecompressor)
        elif start.startswith(ZSTD):
            stream = pa.CompressedInputStream(pa.PythonFile(file), "zstd")
        else:
            yield file
            return
        yield io.BufferedReader(stream, 1 << 20)


class _Encoded(io.RawIOBase):
    """Text as UTF-8 bytes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._pending:
            self._pending = self._text.read(1 << 18).encode()
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size

"""SHA-256 of files, computed once for as long as a file stays as it is.

A large file's digest is remembered across processes, under its size, inode and times. The change
time is among them: whoever writes to a file cannot set that back.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from chatpipe.utils.atomic_writes import write_atomically

# Smaller files are read as fast as a record of them.
REMEMBERED_BYTES = 1 << 20
# A file that changed so recently may change again without another time.
SETTLED_S = 2.0


class Signature(NamedTuple):
    """What a file has another of as soon as its content changes."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


class FileDigests:
    """The digests of files, kept in memory and (of large files) in `folder`, one record for each
    directory that holds some. `compute` is another way than to read all of a file."""

    def __init__(self, folder: Path, compute: Callable[[Path], str] | None = None) -> None:
        self._folder = folder
        self._compute = compute or file_digest
        self._in_memory: dict[Path, tuple[Signature, str]] = {}

    def sha256(self, file: Path) -> str:
        """Hex SHA-256 of that file's content, wherever links lead to it."""
        real = file.resolve()
        current = signature(real)
        remembered = self._in_memory.get(real)
        if remembered is None and current.size >= REMEMBERED_BYTES:
            remembered = self._read(real.parent).get(real.name)
        if remembered is not None and remembered[0] == current:
            self._in_memory[real] = remembered
            return remembered[1]
        digest = self._compute(real)
        settled = time.time() - current.changed_ns / 1e9 > SETTLED_S
        if settled and signature(real) == current:
            self._in_memory[real] = (current, digest)
            if current.size >= REMEMBERED_BYTES:
                self._remember(real, current, digest)
        return digest

    def forget(self, directory: Path) -> None:
        """Drop what is remembered of the files in that directory."""
        with suppress(OSError):
            self._record(directory.resolve()).unlink(missing_ok=True)

    def _record(self, directory: Path) -> Path:
        return self._folder / f"{hashlib.sha256(str(directory).encode()).hexdigest()[:40]}.json"

    def _read(self, directory: Path) -> dict[str, tuple[Signature, str]]:
        """The record of that directory; nothing where there is none that can be read."""
        try:
            files = json.loads(self._record(directory).read_text("utf-8"))["files"]
            return {name: (Signature(*item[0]), str(item[1])) for name, item in files.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _remember(self, file: Path, of_file: Signature, digest: str) -> None:
        """Where nothing can be written, the next process computes the digest again."""
        files = self._read(file.parent) | {file.name: (of_file, digest)}
        record = {"directory": str(file.parent), "files": files}
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")
            write_atomically(self._record(file.parent), content)


def signature(file: Path) -> Signature:
    """The file's size, times and inode, as they are now."""
    status = file.stat()
    return Signature(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's content, every byte read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha1_digests(path: Path) -> set[str]:
    """Hex SHA-1 of a file's content, alone and as git computes it of a blob."""
    plain = hashlib.sha1(usedforsecurity=False)
    of_blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            plain.update(block)
            of_blob.update(block)
    return {plain.hexdigest(), of_blob.hexdigest()}

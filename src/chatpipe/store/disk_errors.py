"""Errors of a full, read-only or failing disk, as one sentence: the path, the fault, the remedy."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatpipe.errors import ChatpipeError, DiskError

_PLACE = ", or put CHATPIPE_HOME on another disk"  # added for a path in it
_REASONS: dict[int, str] = {
    errno.ENOSPC: f"no space is left on this disk; make room{_PLACE}.",
    errno.EDQUOT: f"your quota on this disk is used up; make room{_PLACE}.",
    errno.EROFS: f"this disk is read-only; mount it for writing{_PLACE}.",
    errno.EACCES: f"this user may not do that here; change the rights of it{_PLACE}.",
    errno.EPERM: f"this user may not do that here; change the rights of it{_PLACE}.",
    errno.EIO: f"the disk fails (input/output error); check it{_PLACE}.",
    errno.ESTALE: "the network file system lost this file; run the same command again.",
    errno.ENAMETOOLONG: "this name is too long for the disk; choose a shorter one.",
    errno.ENOTDIR: "a file is in the way of a directory; move it away.",
    errno.EISDIR: "a directory is in the way of a file; move it away.",
    errno.EMFILE: "too many files are open; raise `ulimit -n`.",
    errno.ENFILE: "too many files are open on this machine; end other programs.",
}
# The messages of libraries that are not written in Python: "I/O error: No space left on device (os
# error 28)" (safetensors), "[errno 28] …" (Arrow), "database or disk is full" (SQLite).
_IN_WORDS: dict[str, int] = {
    "no space left on device": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "permission denied": errno.EACCES,
    "operation not permitted": errno.EPERM,
    "input/output error": errno.EIO,
    "too many open files": errno.EMFILE,
}
# torch does not say why it could not write.
_TORCH_WRITES = re.compile(
    "PytorchStreamWriter failed|file write failed|inline_container.*unexpected pos|iostream error",
    re.IGNORECASE,
)
_FULL_BYTES = 1 << 26  # other files may have gone since the write failed
_QUOTED_PATH = re.compile(r"""['"](/[^'"\n]+)['"]""")


def as_disk_error(error: BaseException, directory: Path) -> DiskError | None:
    """Return the error as a DiskError if a disk is its cause, else None.

    `directory` is named if the error names no path.
    """
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return None
        if isinstance(cause, DiskError):
            return cause
        number = _number(cause, directory)
        if number is not None:
            path = Path(_path(cause) or directory)
            reason = _REASONS[number] if _is_ours(path) else _REASONS[number].replace(_PLACE, "")
            return DiskError(f"{path}: {reason}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Raise a DiskError for errors of a disk in this block; others are not changed."""
    try:
        yield
    except ChatpipeError:
        raise
    except Exception as error:
        disk_error = as_disk_error(error, directory)
        if disk_error is None:
            raise
        raise disk_error from error


def _number(error: BaseException, directory: Path) -> int | None:
    """Return the errno of a disk's error, from the exception or from its message."""
    if isinstance(error, ConnectionError | TimeoutError | ChatpipeError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _REASONS else None
    if isinstance(error, ValueError | TypeError | LookupError):
        return None  # their messages may quote the user's data
    message = str(error)
    lower = message.lower()
    for phrase, number in _IN_WORDS.items():
        if phrase in lower:
            return number
    if _TORCH_WRITES.search(message) and _free_bytes(directory) < _FULL_BYTES:
        return errno.ENOSPC
    return None


def _path(error: BaseException) -> str | None:
    name = getattr(error, "filename", None)
    if isinstance(name, str | bytes) and name:
        return name if isinstance(name, str) else name.decode("utf-8", "replace")
    quoted = _QUOTED_PATH.search(str(error))
    return quoted[1] if quoted else None


def _is_ours(path: Path) -> bool:
    """Return whether a path is in CHATPIPE_HOME, and so not a source of the user's."""
    from chatpipe.store.paths import home

    return path.is_relative_to(home())


def _free_bytes(directory: Path) -> int:
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free

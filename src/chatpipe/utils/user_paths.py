"""Paths as users write them: in settings, on the command line and in environment variables."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def expanded(text: str) -> Path:
    """Return the path with `~` and `~user` as home directories; a user whom nobody knows stays as
    it is written, so that the path is one that is not there."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (pathlib's raises)


def is_there(path: Path) -> bool:
    """Whether the path exists; False for one that no disk can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def fault_as_directory(path: Path) -> str:
    """Return what keeps the path from being a directory or becoming one; empty if nothing does."""
    try:
        if path.exists():
            return "" if path.is_dir() else "is a file"
        if path.is_symlink():
            return f"is a link to {path.readlink()}, which is not there"
        above = next((parent for parent in path.parents if parent.exists()), None)
    except (OSError, ValueError):
        return "no disk can have such a name"
    if above is None:
        return ""
    return _fault_as_parent(above) if above.is_dir() else f"{above} is a file"


def _fault_as_parent(directory: Path) -> str:
    """Return what keeps a directory from being made there. It is tried: rights alone do not tell,
    as of /proc, where nobody can make one."""
    try:
        Path(tempfile.mkdtemp(prefix=".chatpipe-", dir=directory)).rmdir()
    except OSError as error:
        return f"no directory can be made in {directory} ({error.strerror})"
    return ""

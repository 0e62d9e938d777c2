"""Locks of devices: no two processes of a machine compute parts of steps on the same one."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import IO

LOG = logging.getLogger(__name__)


def lock_name(number: int, visible: str | None) -> str:
    """Return what names this process's device of that number for all processes of the machine that
    have the same TMPDIR.

    `visible` is its entry in CUDA_VISIBLE_DEVICES, None on a CPU. It may be an index or the
    beginning of a UUID, so a GPU goes by the UUID that torch gives. A part of a GPU (MIG) goes by
    its entry.
    """
    import torch

    if visible is None:
        return f"{platform.node()}-cpu-{number}"
    if visible.startswith("MIG-"):
        return visible.replace("/", "-")
    return f"GPU-{torch.cuda.get_device_properties(number).uuid}"


def locked(name: str) -> IO[str] | None:
    """Return a lock, which lasts as long as the file is open; None where another process has it,
    of any user, or where there can be none, of which is warned."""
    try:
        lock = os.fdopen(_opened(Path(tempfile.gettempdir()) / f"chatpipe-{name}.lock"))
    except OSError as error:
        _warn(name, error)
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if not isinstance(error, BlockingIOError):
            _warn(name, error)
        return None
    return lock


def _opened(path: Path) -> int:
    """Return the descriptor of the file, which every user may open. NFS locks only what is open for
    writing, elsewhere reading is enough. A link that somebody has put there is not followed."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        try:
            return os.open(path, flags | os.O_RDWR)
        except PermissionError:  # another user's
            return os.open(path, flags | os.O_RDONLY)
    os.fchmod(descriptor, 0o644)
    return descriptor


def _warn(name: str, error: OSError) -> None:
    LOG.warning(
        "%s is not used, because no lock can be taken on it (%s); set TMPDIR to a directory "
        "on a local disk that can be written to.",
        name,
        error,
    )

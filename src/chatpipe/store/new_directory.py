"""A new directory that is written whole or not at all."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chatpipe.errors import ConfigError
from chatpipe.store.disk_errors import disk_errors


def check_new(target: Path) -> None:
    """ConfigError where something is there already, or nothing can be put there."""
    if target.is_symlink() or target.exists():
        raise ConfigError([f"{target}: exists already; name a new directory."])
    check_parent(target)


def check_parent(target: Path, option: str = "") -> None:
    """ConfigError where no directory can be made in the nearest parent that is there; one is made
    and removed, as rights alone do not tell (`/proc`, a read-only disk). option: the one that
    named the target, for the message."""
    named = f"{option} {target}".strip()
    parent = next(path for path in target.absolute().parents if path.exists())
    if not parent.is_dir():
        raise ConfigError([f"{named}: {parent} is a file; name a new directory."])
    try:
        Path(tempfile.mkdtemp(prefix=".", dir=parent)).rmdir()
    except PermissionError:
        raise ConfigError(
            [f"{named}: this user may not write in {parent}; name another place."]
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigError(
            [f"{named}: nothing can be written in {parent} ({why}); name another place."]
        ) from None


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory beside the target, which becomes the target at the end of the block, or is
    removed where the block fails. What a killed process left of an earlier one is removed."""
    target = target.absolute()
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(target)
        partial.mkdir()
        with _locked(partial):
            try:
                yield partial
                check_new(target)  # it may have come meanwhile
                _make_readable(partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def _make_readable(directory: Path) -> None:
    """Give all files the permissions of the directory: some libraries write files that only this
    user may read."""
    mode = directory.stat().st_mode & 0o666
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _remove_left_over(target: Path) -> None:
    """Remove directories of processes that are gone."""
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(OSError), _locked(partial):
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock a directory for as long as this process lives; OSError where another has."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)

"""Small disks for tests: full ones, and ones that turn read-only. Only root may mount them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size at `place`; the test is skipped where none can be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root, outside of most containers")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_read_only(place: Path) -> None:
    """Root ignores the rights of files, but not how a disk is mounted."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def fill(place: Path, leave: int) -> None:
    """Write to the disk until only so many bytes are left."""
    status = os.statvfs(place)
    (place / "ballast").write_bytes(b"\0" * max(0, status.f_bavail * status.f_frsize - leave))

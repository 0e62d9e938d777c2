"""Check the disk of Prefect's database before a server starts.

A server that cannot write its database reports no error, and never answers.
"""

from __future__ import annotations

import errno
import shutil
from typing import NamedTuple

from chatpipe.errors import DiskError
from chatpipe.utils.atomic_writes import write_atomically

NEEDED_BYTES = 16 << 20  # an empty database and its journal take two, a study one
_MAKE_ROOM = "make room, or set PREFECT_HOME to a directory on another disk"
_ELSEWHERE = "set PREFECT_HOME to a directory that can be made and written to"


class RoomFault(NamedTuple):
    """What is wrong with the directory of Prefect's records, and how to mend it."""

    text: str
    remedy: str


def check_room() -> None:
    """DiskError where PREFECT_HOME cannot be made or written to, or its disk is full."""
    fault = room_fault()
    if fault:
        raise DiskError(f"PREFECT_HOME: {fault.text}; {fault.remedy}.")


def room_fault() -> RoomFault | None:
    """Return what keeps Prefect from writing its records; None where nothing does. The directory
    is made, if it is missing."""
    from prefect.settings import PREFECT_HOME

    directory = PREFECT_HOME.value()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".chatpipe-probe"
        write_atomically(probe, b" " * 4096)
        probe.unlink()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return RoomFault(
            f"{directory}: Prefect's records cannot be written there ({error.strerror})",
            _MAKE_ROOM if is_full else _ELSEWHERE,
        )
    if free < NEEDED_BYTES:
        return RoomFault(
            f"{directory}: Prefect's records need {NEEDED_BYTES >> 20} MiB, "
            f"{free / 2**20:.1f} MiB are free",
            _MAKE_ROOM,
        )
    return None

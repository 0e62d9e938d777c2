"""Check the disk of Prefect's database before a server starts.

A server that cannot write its database reports no error, and never answers.
"""

from __future__ import annotations

import shutil

from chatpipe.errors import DiskError
from chatpipe.utils.atomic_writes import write_atomically

NEEDED_BYTES = 16 << 20  # an empty database and its journal take two, a study one


def check_room() -> None:
    """DiskError where PREFECT_HOME cannot be written to, or is full."""
    from prefect.settings import PREFECT_HOME

    directory = PREFECT_HOME.value()
    remedy = "make room, or set PREFECT_HOME to another disk."
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".chatpipe-probe"
        write_atomically(probe, b" " * 4096)
        probe.unlink()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise DiskError(
            f"PREFECT_HOME: {directory}: Prefect's records cannot be written there "
            f"({error.strerror}); {remedy}"
        ) from None
    if free < NEEDED_BYTES:
        raise DiskError(
            f"PREFECT_HOME: {directory}: Prefect's records need {NEEDED_BYTES >> 20} MiB, "
            f"{free / 2**20:.1f} MiB are free; {remedy}"
        )

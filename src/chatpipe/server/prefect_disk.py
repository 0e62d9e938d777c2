"""The disk that Prefect keeps its records on, before a server is started on it.

A server that cannot write its database says so to nobody, and is waited for in vain.
"""

from __future__ import annotations

import shutil

from chatpipe.errors import DiskError
from chatpipe.utils.atomic_writes import write_atomically

NEEDED_BYTES = 16 << 20  # an empty database and its journal take two, a study one


def check_room() -> None:
    """DiskError where PREFECT_HOME cannot be written to, or is full."""
    from prefect.settings import PREFECT_HOME

    place = PREFECT_HOME.value()
    remedy = "make room, or set PREFECT_HOME to another disk."
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = place / ".chatpipe-probe"
        write_atomically(probe, b" " * 4096)
        probe.unlink()
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise DiskError(
            f"PREFECT_HOME: {place}: Prefect's records cannot be written there "
            f"({error.strerror}); {remedy}"
        ) from None
    if free < NEEDED_BYTES:
        raise DiskError(
            f"PREFECT_HOME: {place}: Prefect's records need {NEEDED_BYTES >> 20} MiB, "
            f"{free / 2**20:.1f} MiB are free; {remedy}"
        )

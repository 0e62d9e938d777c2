"""Whether disk and main memory have room for what an export writes and computes."""

from __future__ import annotations

import shutil
from pathlib import Path

from chatpipe.errors import DiskError, ExportError
from chatpipe.utils.quantities import in_bytes


def check_space(target: Path, needed: int) -> None:
    """DiskError where the disk has no room for that many bytes."""
    parent = next(path for path in target.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise DiskError(
            f"{target}: needs {in_bytes(needed)}, and {in_bytes(free)} are free on this disk; make "
            "room, or name a directory on another disk."
        )


def check_memory(needed: int) -> None:
    """ExportError where main memory has no room for that many bytes."""
    import psutil

    free = psutil.virtual_memory().available
    if free < needed:
        raise ExportError(
            f"merging needs {in_bytes(needed)} of main memory, as the whole base is held in "
            f"float32, and {in_bytes(free)} are free; end other programs, take a machine with "
            "more, or export the adapter alone (--to adapter)."
        )

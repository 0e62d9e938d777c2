"""Kernels that computed something else than the plain path on a device of this machine.

`chatpipe doctor` records them in `$CHATPIPE_HOME/kernels/MACHINE.json`, by device: machines may
share a home, and of two equal GPUs one may be broken.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from chatpipe.utils.atomic_writes import write_atomically
from chatpipe.utils.home import home

LOG = logging.getLogger(__name__)
CPU = "cpu"


def record_file() -> Path:
    """Return the file of this machine's switched-off kernels."""
    return home() / "kernels" / f"{platform.node()}.json"


def switched_off() -> Mapping[str, str]:
    """Return the kernels that are switched off on this process's device, with the reasons. The file
    is read once a process; what it holds is logged then."""
    return _switched_off(os.environ.get("CHATPIPE_HOME", ""))


@cache
def _switched_off(_home: str) -> Mapping[str, str]:
    if not record_file().is_file():
        return {}
    kernels: dict[str, str] = _recorded().get(_device(), {})
    for kernel, reason in kernels.items():
        LOG.warning(
            "%s is switched off on this machine: %s; `chatpipe doctor --check` tries it again.",
            kernel,
            reason,
        )
    return kernels


def record(kernels: Mapping[str, str]) -> None:
    """Record these kernels, with the reasons, as all that are switched off on this device."""
    if kernels or record_file().is_file():
        record_file().parent.mkdir(parents=True, exist_ok=True)
        with record_file().with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of several GPUs record at once
            recorded = {**_recorded(), _device(): dict(kernels)}
            write_atomically(record_file(), json.dumps(recorded, indent=1).encode())
    _switched_off.cache_clear()


def _recorded() -> dict[str, Any]:
    try:
        content = json.loads(record_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return CPU
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{properties.name} {getattr(properties, 'uuid', '')}".strip()

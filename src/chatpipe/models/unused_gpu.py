"""A GPU that the machine has and torch cannot use: all would be computed on the CPU, and nothing
said.

torch warns of it, among the warnings that are left out here (libraries.py).
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

LOG = logging.getLogger(__name__)
DEVICES = Path("/dev")


def unused_gpu() -> str | None:
    """A sentence on why an NVIDIA GPU of this machine is not used; None where there is none, where
    it is used, or where it was hidden on purpose."""
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if hidden or torch.cuda.is_available() or not any(DEVICES.glob("nvidia[0-9]*")):
        return None
    return (
        f"this machine has an NVIDIA GPU, but torch {torch.__version__} cannot use it "
        f"({_reason()}), so all is computed on the CPU; install a driver and a torch that fit each "
        "other, or set CUDA_VISIBLE_DEVICES= (to nothing) if the CPU is what you want."
    )


@cache
def warn_of_unused_gpu() -> None:
    """Once a process."""
    sentence = unused_gpu()
    if sentence:
        LOG.warning(sentence)


def _reason() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # the one of a driver, the other of a CPU build
        return str(error).partition(". ")[0].strip().rstrip(".")
    return "it says not why"

"""A GPU that the machine has and torch cannot use: all would be computed on the CPU, and nothing
said.

torch warns of it, among the warnings that are left out here (libraries.py).
"""

from __future__ import annotations

import logging
import os
import re
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


def gpu_without_kernels() -> str | None:
    """A sentence on a GPU that torch was built without kernels for; None where it has them."""
    import torch

    if not torch.cuda.is_available():
        return None
    capability = torch.cuda.get_device_capability()
    architectures = torch.cuda.get_arch_list()
    if not architectures or any(_runs_on(name, capability) for name in architectures):
        return None
    return (
        f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name()} (compute "
        f"capability {capability[0]}.{capability[1]}; it has {', '.join(architectures)}); install "
        "a torch that was built for it, or use another GPU."
    )


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for that architecture runs on such a GPU: binaries (sm_86) on the same major
    number and no smaller minor one, intermediate code (compute_90) on all later ones."""
    kind, _, number = architecture.partition("_")
    digits = re.match(r"\d+", number)
    if digits is None:
        return False
    built_for = divmod(int(digits[0]), 10)
    if not number.isdigit():  # sm_90a: for that one alone
        return built_for == capability
    if kind == "compute":
        return built_for <= capability
    return built_for[0] == capability[0] and built_for <= capability


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

"""The device that computes: its name, its memory, its number type."""

from __future__ import annotations

import platform
import resource
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from chatpipe.config.schema import Quantization
from chatpipe.models.unused_gpu import warn_of_unused_gpu

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")


def device() -> torch.device:
    """This process's CUDA device, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    warn_of_unused_gpu()
    return torch.device("cpu")


def device_name() -> str:
    """What people call the device."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def library_versions() -> dict[str, str]:
    """Version of every library that the numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def free_memory_bytes() -> int:
    """What is free now: of the GPU where there is one (what torch keeps unused is free), else of
    main memory."""
    if torch.cuda.is_available():
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + kept
    return int(psutil.virtual_memory().available)


def peak_memory_bytes() -> int:
    """The most memory held so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def compute_dtype(quantization: Quantization) -> torch.dtype:
    """The type that matrix products are computed in."""
    if quantization.compute_dtype != "auto":
        return getattr(torch, quantization.compute_dtype)  # type: ignore[no-any-return]
    if torch.cuda.is_available():
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags

"""What this machine has: GPU, memory, libraries, disk, and the way to the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from chatpipe.config.schema import Quantization
from chatpipe.diagnosis.findings import Finding, fault, ok, warning
from chatpipe.kernels.switched_off import record_file, switched_off
from chatpipe.planning.cost import free_bytes
from chatpipe.store.paths import home
from chatpipe.utils import nvidia_smi
from chatpipe.utils.quantities import in_bytes

LITTLE_MEMORY = 4 << 30  # a 4-bit base of 7B parameters alone
LITTLE_DISK = 20 << 30  # a base of 7B parameters in half precision, and its rows
HUB_ANSWERS_WITHIN_S = 5.0
DRIVER = Path("/sys/module/nvidia/version")


def machine_findings() -> Iterator[Finding]:
    """Yield a finding for each part of this machine, without computing anything."""
    yield from _driver()
    yield from _gpu()
    yield _memory()
    yield _bitsandbytes()
    yield _disk()
    yield _hub()
    yield _token()
    yield _kernels()


def _driver() -> Iterator[Finding]:
    """NVIDIA's driver, where there is one: whether torch can use it is the next finding."""
    try:
        number = DRIVER.read_text("ascii").strip()
    except OSError:  # not Linux's own module, or not shown to this container
        number = next(iter(nvidia_smi.query("driver_version")), "")
    if number:
        yield ok("driver", f"NVIDIA {number}")


def _gpu() -> Iterator[Finding]:
    import torch

    from chatpipe.models.unused_gpu import gpu_without_kernels, unused_gpu

    unused = unused_gpu()
    if unused:
        yield fault("GPU", *unused.rsplit("; ", 1))
        return
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        yield ok("GPU", "CUDA_VISIBLE_DEVICES hides all of them; all is computed on the CPU")
        return
    if not torch.cuda.is_available():
        yield warning(
            "GPU",
            f"torch {torch.__version__} has none here; all is computed on the CPU",
            "train large bases on a machine with a GPU",
        )
        return
    lacking = gpu_without_kernels()
    if lacking:
        yield fault("GPU", *lacking.rsplit("; ", 1))
        return
    major, minor = torch.cuda.get_device_capability()
    count = torch.cuda.device_count()
    yield ok(
        "GPU",
        f"{count} × {torch.cuda.get_device_name()}, compute capability {major}.{minor}, torch "
        f"{torch.__version__} for CUDA {torch.version.cuda} with kernels for "
        f"{', '.join(torch.cuda.get_arch_list())}",
    )
    yield _liger()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        yield ok("bfloat16", "products are computed in bfloat16")
    else:
        yield warning(
            "bfloat16",
            "this GPU has none; products are computed in float16, which can overflow",
            "set quantization.compute_dtype to float32 if a loss is not finite",
        )


def _liger() -> Finding:
    from chatpipe.kernels import liger  # brings a model of transformers

    if liger.is_installed():
        return ok("Liger", "computes norms, rotary positions and gated units")
    return warning(
        "Liger",
        "is not installed; norms, rotary positions and gated units are computed in several passes, "
        "which is slower",
        "pip install 'chatpipe[gpu]'",
    )


def _memory() -> Finding:
    from chatpipe.models import devices

    free = devices.free_memory_bytes()
    dtype = str(devices.compute_dtype(Quantization())).removeprefix("torch.")
    text = f"{in_bytes(free)} free on {devices.device_name()}, products in {dtype}"
    if free < LITTLE_MEMORY:
        return warning("memory", text, "end other programs; `chatpipe plan` says what a run needs")
    return ok("memory", text)


def _bitsandbytes() -> Finding:
    import torch
    from bitsandbytes.cextension import lib

    text = f"bitsandbytes {version('bitsandbytes')}"
    if torch.cuda.is_available() and not getattr(lib, "compiled_with_cuda", False):
        return fault(
            "bitsandbytes",
            f"{text} has no kernels for CUDA {torch.version.cuda}",
            "install a bitsandbytes that was built for it; `python -m bitsandbytes` says more",
        )
    where = "a GPU" if torch.cuda.is_available() else "CPUs"
    return ok("bitsandbytes", f"{text}, with kernels for {where}")


def _disk() -> Finding:
    free = free_bytes(home())
    text = f"{in_bytes(free)} free in {home()}"
    if free < LITTLE_DISK:
        return warning("disk", text, "make room, or move CHATPIPE_HOME; `chatpipe plan` says more")
    return ok("disk", text)


def _hub() -> Finding:
    import httpx2

    from chatpipe.sources.hub import endpoint, offline

    variable = offline("model")
    if variable:
        return warning(
            "hub", f"{variable} is set: only what was downloaded can be used", "unset it"
        )
    address = endpoint()
    try:
        httpx2.head(address, timeout=HUB_ANSWERS_WITHIN_S)
    except Exception as error:
        return warning(
            "hub",
            f"{address} does not answer ({type(error).__name__})",
            "check the network, the proxy variables or HF_ENDPOINT; the demo needs no hub",
        )
    return ok("hub", f"{address} answers")


def _token() -> Finding:
    from huggingface_hub import get_token

    if get_token():
        return ok("hub's token", "there is one (not shown)")
    return warning(
        "hub's token", "there is none", "set HF_TOKEN for gated and private repositories"
    )


def _kernels() -> Finding:
    off = switched_off()
    if not off:
        return ok("kernels", f"none is switched off (CHATPIPE_KERNELS={_setting()})")
    listed = "; ".join(f"{kernel}: {reason}" for kernel, reason in off.items())
    return warning(
        "kernels",
        f"switched off on this machine: {listed}",
        f"`chatpipe doctor --check` tries again; the record is {record_file()}",
    )


def _setting() -> str:
    return os.environ.get("CHATPIPE_KERNELS") or "auto"

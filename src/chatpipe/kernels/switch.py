"""$CHATPIPE_KERNELS: which fast paths are used, and a record of those that ran.

`auto` uses each where it knows the model and the device; `off` is the reference: padded batches,
torch's attention, dropout and cross-entropy, peft's own forward pass, one thread of computation;
names, separated by commas, use those alone. `auto` leaves out kernels that `chatpipe doctor` has
switched off on this machine, and `compile`, which takes time to begin with: `auto,compile` has it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chatpipe.errors import ConfigError
from chatpipe.kernels.switched_off import switched_off

LOG = logging.getLogger(__name__)
VARIABLE = "CHATPIPE_KERNELS"
COMPILE = "compile"
KERNELS = {
    "packing": "several rows in one forward pass, without padding, common beginnings once",
    "varlen_attention": "one attention kernel for all rows of a pack, on GPUs",
    "cross_entropy": "the loss of a large vocabulary in parts, its gradient in the logits' place",
    "lora_training": "LoRA without casts and copies, layers that read one input together",
    "lora_inference": "adapters stacked to two products a layer, also of several in one batch",
    "liger": "norms, rotary positions and gated units by Liger's kernels, on GPUs (extra gpu)",
    COMPILE: "norms, rotary positions and gated units compiled by torch, where it is named",
    "sparse_dropout": "LoRA's dropout on CPUs by the elements that are dropped",
    "dequantize": "NF4 weights dequantized once, where there is room",
    "packed_weights": "weights arranged once for products of few tokens, in bfloat16 on CPUs",
    "nf4_products": "NF4 weights read as they are for few tokens, in bfloat16 on CPUs",
    "decoding": "a token of every row in few operations, by models of the Llama family on CPUs",
    "concurrency": "packs in parallel threads on CPUs",
}

BY_DEFAULT = frozenset(KERNELS) - {COMPILE}


def kernel_faults() -> list[str]:
    """A sentence where the variable's value is none that it can have, or where this machine has not
    what it needs."""
    value = os.environ.get(VARIABLE, "")
    names = _names(value)
    unknown = set(names) - {"auto", *KERNELS}
    if value not in ("", "off") and (unknown or not names):
        others = ", ".join(KERNELS)
        return [f"{VARIABLE}={value}: must be auto, off, or names out of {others}."]
    compiler = os.environ.get("CXX", "g++")
    if COMPILE in names and not shutil.which(compiler):
        return [
            f"{VARIABLE}={value}: {COMPILE} needs a C++ compiler, and there is no {compiler}; "
            f"install one (apt-get install g++), name it in CXX, or leave {COMPILE} out."
        ]
    return []


def enabled_kernels() -> frozenset[str]:
    """The kernels that may be used; ConfigError where the variable's value is none."""
    if faults := kernel_faults():
        raise ConfigError(faults)
    value = os.environ.get(VARIABLE, "") or "auto"
    names = frozenset(() if value == "off" else _names(value))
    if "auto" in names:
        return (BY_DEFAULT - switched_off().keys()) | (names - {"auto"})
    return names


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def is_enabled(kernel: str) -> bool:
    """Whether that kernel may be used."""
    return kernel in enabled_kernels()


class KernelRecord:
    """Which kernels ran while a step was built, and why one did not that may be used."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        is_auto = "auto" in _names(os.environ.get(VARIABLE, "") or "auto")
        self.unused = dict(switched_off()) if is_auto else {}

    def details(self) -> dict[str, Any]:
        """As a manifest has it: `kernels`, and `kernels_unused` where a model is not known to
        one."""
        unused = {"kernels_unused": dict(sorted(self.unused.items()))} if self.unused else {}
        return {"kernels": sorted(self.ran), **unused}


# Those that are being kept: a step's own, and a list because steps may be built within steps.
_RECORDS: list[KernelRecord] = []


@contextmanager
def recorded_kernels() -> Iterator[KernelRecord]:
    """While this lasts, what runs (in any thread of this process) is noted in the record."""
    record = KernelRecord()
    _RECORDS.append(record)
    try:
        yield record
    finally:
        _RECORDS.remove(record)


def ran(kernel: str) -> None:
    """Note that the kernel is used."""
    for record in _RECORDS:
        record.ran.add(kernel)


def fell_back(kernel: str, reason: str) -> None:
    """Note that the kernel does not know the model, and warn of it once a step."""
    is_new = not _RECORDS or any(kernel not in record.unused for record in _RECORDS)
    for record in _RECORDS:
        record.unused.setdefault(kernel, reason)
    if is_new:
        LOG.warning("%s is not used, which is slower: %s.", kernel, reason)

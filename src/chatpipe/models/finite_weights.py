"""Weights that no model was trained to: not finite, where quantization would make numbers of them
and of a loss nothing, or nothing but zeros, as a file is that was reserved and never filled.

Every file is read through once; that it is fine is remembered for as long as it stays as it is.
"""

from __future__ import annotations

import math
from pathlib import Path

from chatpipe.errors import ModelError
from chatpipe.sources.base_files import weight_files
from chatpipe.store.paths import home
from chatpipe.utils.file_digests import FileDigests

FINE = "fine"


def check_finite(base: Path) -> None:
    """ModelError with the first tensor of the base that has a NaN or an infinity, or with a file
    that holds nothing but zeros."""
    checked = FileDigests(home() / "cache" / "weight-values", _value_fault)
    for file in weight_files(base):
        fault = checked.sha256(file)
        if fault != FINE:
            raise ModelError(
                f"the base model cannot be used: {file.name}: {fault}; fetch the weights again, or "
                "take another base."
            )


def _value_fault(file: Path) -> str:
    """What is wrong with the file's values, or FINE."""
    import torch
    from safetensors import safe_open

    matrices, zeros = 0, 0
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping)
            tensor = tensors.get_tensor(name)
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            least, most = (bound.item() for bound in torch.aminmax(tensor))
            if not (math.isfinite(least) and math.isfinite(most)):
                return f"{name} has values that are not finite"
            if tensor.dim() > 1:
                matrices += 1
                zeros += least == most == 0
    return "all its matrices are zero" if matrices and zeros == matrices else FINE

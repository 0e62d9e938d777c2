"""Weights that are not finite: quantization would make numbers of them, and of a loss nothing.

Every file is read through once; that it is finite is remembered for as long as it stays as it is.
"""

from __future__ import annotations

import math
from pathlib import Path

from chatpipe.artifacts import home
from chatpipe.base_files import weight_files
from chatpipe.errors import ModelError
from chatpipe.file_digests import FileDigests

FINITE = "finite"


def check_finite(base: Path) -> None:
    """ModelError with the first tensor of the base that has a NaN or an infinity."""
    checked = FileDigests(home() / "cache" / "finite-weights", _first_not_finite)
    for file in weight_files(base):
        name = checked.sha256(file)
        if name != FINITE:
            raise ModelError(
                f"the base model cannot be used: {file.name}: {name} has values that are not "
                "finite; fetch the weights again, or take another base."
            )


def _first_not_finite(file: Path) -> str:
    """That tensor's name, or FINITE."""
    import torch
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping)
            tensor = tensors.get_tensor(name)
            if tensor.is_floating_point() and tensor.numel():
                least, most = torch.aminmax(tensor)
                if not (math.isfinite(least.item()) and math.isfinite(most.item())):
                    return str(name)
    return FINITE

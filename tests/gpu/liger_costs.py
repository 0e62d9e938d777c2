"""What an optimizer step costs on a GPU where Liger computes norms, rotations and gated units. Its
kernels, which Triton compiles for a real GPU only, are operations of fake tensors here. Prints the
table of `docs/gpu.md` as JSON.

    python -m tests.gpu.liger_costs
"""

from __future__ import annotations

import json
from typing import Any

from tests.gpu import fake_device

fake_device.preload()

import torch

from tests.gpu.fake_torch import fake_gpu, patch_libraries

patch_libraries()

from liger_kernel.ops import rms_norm, rope, swiglu

from chatpipe.kernels.liger import LIGER
from chatpipe.kernels.switch import recorded_kernels
from tests.gpu.step_costs import predictions, step_costs, table

CASES = ("16 rows of 128 tokens, NF4", "16 rows of 128 tokens, dequantized once")
# The operands that each of Liger's launches reads, and what it writes.
LAUNCHES = {
    "rms_norm(Tensor x, Tensor weight) -> (Tensor, Tensor)": lambda x, weight: (
        torch.empty_like(x),
        x.new_empty(len(x), dtype=torch.float32),
    ),
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd) -> Tensor": (
        lambda dy, x, weight, rstd: torch.empty_like(dy)
    ),
    "swiglu(Tensor a, Tensor b) -> Tensor": lambda a, b: torch.empty_like(a),
    "swiglu_backward(Tensor dc, Tensor a, Tensor b) -> (Tensor, Tensor)": (
        lambda dc, a, b: (torch.empty_like(a), torch.empty_like(b))
    ),
    "rope(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)": (
        lambda q, k, cos, sin: (torch.empty_like(q), torch.empty_like(k))
    ),
}
LIBRARY = torch.library.Library("fake_liger", "DEF")
OPS: Any = torch.ops.fake_liger


def replace_launches() -> None:
    """Put these operations in the place of the functions that launch Liger's kernels."""
    for schema, result in LAUNCHES.items():
        LIBRARY.define(schema)
        LIBRARY.impl(schema.split("(")[0], result, "Meta")
    rms_norm.rms_norm_forward = _norm
    rms_norm.rms_norm_backward = _norm_backward
    swiglu.swiglu_forward = lambda a, b, _: (a, b, OPS.swiglu(a, b))
    swiglu.swiglu_backward = lambda a, b, dc, _: OPS.swiglu_backward(dc, a, b)
    rope.rope_forward = lambda q, k, cos, sin, *_: (*_rotated(q, k, cos, sin), cos, sin)
    rope.rope_backward = lambda q, k, cos, sin, **_: _rotated(q, k, cos, sin)


def _norm(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    rows = x.view(-1, x.shape[-1])
    y, rstd = OPS.rms_norm(rows, weight)
    return y.view_as(x), rows, rstd, 0, 0, 0


def _norm_backward(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    rows = dy.view_as(x)
    torch.zeros_like(rows)  # Liger fills it before it writes to it
    return OPS.rms_norm_backward(rows, x, weight, rstd).view_as(dy), None


def _rotated(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Liger copies what is not contiguous by token."""
    by_token = [part.transpose(1, 2).contiguous() for part in (q, k)]
    q, k = OPS.rope(*by_token, cos, sin)
    return q.transpose(1, 2), k.transpose(1, 2)


def main() -> dict[str, Any]:
    replace_launches()
    with fake_gpu((8, 9)), recorded_kernels() as kernels:
        costs = step_costs(CASES)
    assert LIGER in kernels.ran
    calls = {call.name for cost in costs.values() for call in cost.calls}
    return {"costs": table(costs), "predictions": predictions(costs), "operations": sorted(calls)}


if __name__ == "__main__":
    print(json.dumps(main()))

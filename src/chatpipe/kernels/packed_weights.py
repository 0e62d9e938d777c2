"""Weights of linear layers in the blocked layout of oneDNN, while answers are written on a CPU.

A step of writing multiplies few tokens by all weights, and in bfloat16 torch arranges a plain
weight anew for every product: half of its time. Here each weight is arranged once and kept with its
layer, a second copy in memory. Products of few tokens are the same to the last bit; the sums of
many tokens are taken in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import torch

from chatpipe.kernels.forwards import Forward, replaced_forwards
from chatpipe.kernels.switch import is_enabled, ran

PACKED_WEIGHTS = "packed_weights"
SPARE = 2.0  # how many times the second copy must fit into the memory that is free
MOST_TOKENS = 256  # of a product; larger ones are as fast with plain weights


@contextmanager
def packed_weights(model: Any) -> Iterator[None]:
    """While this lasts, frozen bfloat16 layers on a CPU are computed with packed weights, where
    memory allows. Without gradients. The packed weights stay with the model."""
    forwards = _packed_forwards(model) if is_enabled(PACKED_WEIGHTS) else []
    if forwards:
        ran(PACKED_WEIGHTS)
    with replaced_forwards(forwards):
        yield


def _packed_forwards(model: Any) -> list[tuple[Any, Forward]]:
    """Layers with what computes them; those that are packed for the first time are all packed, or
    none of them."""
    layers = [layer for layer in model.modules() if _can_be_packed(layer)]
    if not layers or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return []
    new = [layer for layer in layers if not _is_packed(layer)]
    needed = sum(layer.weight.nbytes for layer in new)
    if new and SPARE * needed > psutil.virtual_memory().available:
        return []
    for layer in new:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        layer.packed_weight = (layer.weight, packed)  # in a tuple: no parameter of the layer
    return [(layer, partial(_product, layer, layer.packed_weight[1])) for layer in layers]


def _is_packed(layer: Any) -> bool:
    """Whether the packed weight is that of the weight which the layer has."""
    return getattr(layer, "packed_weight", (None,))[0] is layer.weight


def _can_be_packed(layer: Any) -> bool:
    if type(layer) is not torch.nn.Linear or "forward" in layer.__dict__:
        return False
    weight = layer.weight
    is_frozen = not weight.requires_grad
    return is_frozen and weight.device.type == "cpu" and weight.dtype is torch.bfloat16


def _product(layer: Any, packed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(..., in) → (..., out), in the type of the weight, which `x` has too."""
    if x.numel() > MOST_TOKENS * x.shape[-1] or x.dtype is not torch.bfloat16:
        return torch.nn.functional.linear(x, layer.weight, layer.bias)
    return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
        x, packed, layer.bias, "none", [], ""
    )

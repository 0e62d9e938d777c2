"""NF4 weights on a CPU: dequantized once, where memory allows, instead of at every product.

The weights are the quantized ones to the last bit, so the numbers stay; scoring takes half the
time, training three quarters. bitsandbytes' own layout for CPU inference rounds the quantization
constants to bfloat16, and rounds them again whenever peft moves the model: figures would depend on
what was loaded before.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import psutil
import torch

from chatpipe.kernels.switch import is_enabled, ran

SPARE = 2.0  # how many times the dequantized weights must fit into the memory that is free


def dequantize_if_it_fits(model: Any, dtype: torch.dtype) -> Any:
    """Replace every 4-bit layer by a plain one of the same weights in `dtype`, in place; the
    model is left as it is where that would take more than half of the free memory."""
    if not is_enabled("dequantize"):
        return model
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)
    }
    needed = sum(layer.in_features * layer.out_features for layer in layers.values())
    if layers and SPARE * needed * dtype.itemsize <= psutil.virtual_memory().available:
        model.is_dequantized = True
        note_dequantized(model)
        for name, layer in layers.items():
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, _plain(layer, dtype))
    return model


def note_dequantized(model: Any) -> None:
    """Note that the kernel ran, for a model that may have been loaded for another step."""
    if getattr(model, "is_dequantized", False):
        ran("dequantize")


def is_quantized(model: Any) -> bool:
    """Whether any layer still holds 4-bit weights."""
    return any(isinstance(layer, bnb.nn.Linear4bit) for layer in model.modules())


def _plain(layer: Any, dtype: torch.dtype) -> torch.nn.Linear:
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()

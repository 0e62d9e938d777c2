"""NF4 weights dequantized once, where memory allows, instead of at every product.

The weights are the quantized ones to the last bit, so the numbers stay; on a CPU scoring takes half
the time, training three quarters. bitsandbytes' own layout for CPU inference rounds the
quantization constants to bfloat16, and rounds them again whenever peft moves the model: figures
would depend on what was loaded before.
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
    layers = _quantized_layers(model).values()
    needed = sum(layer.in_features * layer.out_features for layer in layers)
    if SPARE * needed * dtype.itemsize <= psutil.virtual_memory().available:
        dequantize(model, dtype)
    return model


def dequantize(model: Any, dtype: torch.dtype) -> Any:
    """Replace every 4-bit layer by a plain one of the same weights in `dtype`, in place."""
    layers = _quantized_layers(model)
    model.is_dequantized = bool(layers)
    note_dequantized(model)
    while layers:
        name, layer = layers.popitem()  # each layer's 4-bit weights are freed before the next
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _plain(layer, dtype))
    return model


def _quantized_layers(model: Any) -> dict[str, Any]:
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)
    }


def note_dequantized(model: Any) -> None:
    """Note that the kernel ran, for a model that may have been loaded for another step."""
    if getattr(model, "is_dequantized", False):
        ran("dequantize")


def is_quantized(model: Any) -> bool:
    """Whether any layer still holds 4-bit weights."""
    return bool(_quantized_layers(model))


def compute_dtype_of(layer: Any) -> torch.dtype:
    """The type of a linear layer's products: a 4-bit one's weights are bytes."""
    dtype: torch.dtype = layer.weight.dtype
    return dtype if dtype.is_floating_point else layer.compute_dtype


def dequantized_weight(layer: Any) -> torch.Tensor:
    """The weight of a linear layer, (out, in), in the type of its products."""
    if not isinstance(layer, bnb.nn.Linear4bit):
        return layer.weight  # type: ignore[no-any-return]
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.to(compute_dtype_of(layer))  # type: ignore[no-any-return]


def _plain(layer: Any, dtype: torch.dtype) -> torch.nn.Linear:
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()

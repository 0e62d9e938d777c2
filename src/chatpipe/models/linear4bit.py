"""bitsandbytes' 4-bit layer whose packed weight and constants can be away until it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bitsandbytes as bnb
import torch

Hold = Callable[[torch.Tensor], torch.Tensor]


class SeparableLinear4bit(torch.nn.Linear):
    """weight: (weights / 2, 1) uint8, packed; constants: (weights / block size,), uint8 with double
    quantization, else float32. `hold` decides what both are: parameters, or plain tensors."""

    def __init__(self, layer: Any, device: torch.device, hold: Hold) -> None:
        torch.nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = layer.compute_dtype
        self.bias = layer.bias
        self.state = layer.weight.quant_state
        self.weight = hold(layer.weight.data)
        self.constants = hold(self.state.absmax)
        self.state.absmax = torch.empty(0)  # those that are here come with every forward
        self.state.to(device)
        layer.weight.module = None  # a cycle, which would keep the whole weight until it is found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in features) → (..., out features), computed in the quantization's type."""
        self.state.absmax = self.constants  # all of them are here by now
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        product: torch.Tensor = bnb.matmul_4bit(
            x.to(self.compute_dtype), self.weight, quant_state=self.state, bias=bias
        )
        return product.to(x.dtype)


def separate_layers(block: torch.nn.Module, device: torch.device, hold: Hold) -> None:
    """Replace every 4-bit layer in that block of a base, in place."""
    for name, module in list(block.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            parent, _, attribute = name.rpartition(".")
            layer = SeparableLinear4bit(module, device, hold)
            setattr(block.get_submodule(parent), attribute, layer)


def separable_layers(model: torch.nn.Module) -> list[SeparableLinear4bit]:
    """Return those that were replaced."""
    return [part for part in model.modules() if isinstance(part, SeparableLinear4bit)]


def blocks(base: Any) -> list[torch.nn.Module]:
    """Return a base's layers, as transformers names what must stay on one device."""
    return [part for part in base.modules() if type(part).__name__ in base._no_split_modules]

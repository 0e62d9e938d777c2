"""The products of a step: linear layers that read the same input as one, with the rows' adapters,
and their weights in the form that is read fastest for so many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import torch
from torch.nn.functional import linear

from chatpipe.kernels import nf4_products
from chatpipe.kernels.adapter_stacks import Masks, Stack, Stacks
from chatpipe.kernels.forwards import Forward
from chatpipe.kernels.nf4_products import NF4_PRODUCTS
from chatpipe.kernels.packed_weights import PACKED_WEIGHTS, SPARE
from chatpipe.kernels.switch import is_enabled, ran


class JoinedLayers:
    """Linear layers that read the same input, as one, with the adapters of the rows."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self._bases = [_base(layer) for layer in layers]
        self._few: Forward | None = None
        self._packed: torch.Tensor | None = None
        self._bias = self._joined_bias()
        self._is_few = False
        self._stack: Stack | None = None
        self._own: torch.Tensor | None = None

    @property
    def weights(self) -> int:
        """How many weights the layers have."""
        return sum(base.weight.numel() for base in self._bases)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self._bases[0].weight.dtype  # type: ignore[no-any-return]

    def pack(self) -> None:
        """Have the weights in oneDNN's layout."""
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight())

    def quantize(self) -> bool:
        """Have the weights in NF4 for products of few rows; False where they are not NF4's."""
        self._few = self._few or nf4_products.nf4_product(self._weight())
        return self._few is not None

    def use(self, stacks: Stacks, masks: Masks, rows: int) -> None:
        """Have the adapters of these rows on."""
        self._is_few = rows <= nf4_products.FEW_TOKENS
        self._stack = stacks.of(self.layers)
        self._own = masks.of(self._stack) if self._stack else None

    def output(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """(N, in) → (N, Σout), and what is to be added to it."""
        output = self._base_output(x, added)
        return output if self._stack is None else self._stack.added(output, x, self._own)

    def _base_output(self, x: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        if self._is_few and self._few is not None:
            output = self._few(x)
            if self._bias is not None:
                output += self._bias
        elif self._packed is not None and added is not None:
            return product.binary(x, added, self._packed, self._bias, "add")  # type: ignore[no-any-return]
        elif self._packed is not None:
            output = product(x, self._packed, self._bias, "none", [], "")
        else:
            outputs = [linear(x, base.weight, base.bias) for base in self._bases]
            output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return output if added is None else output.add_(added)

    def _weight(self) -> torch.Tensor:
        return torch.cat([base.weight.detach() for base in self._bases])

    def _joined_bias(self) -> torch.Tensor | None:
        if all(base.bias is None for base in self._bases):
            return None
        parts = [
            base.weight.new_zeros(base.out_features) if base.bias is None else base.bias.detach()
            for base in self._bases
        ]
        return torch.cat(parts)


class Arrangements:
    """Further copies of the weights of a model's layers, each made when it is first needed, where
    there is room in memory: in NF4 for few rows, and in oneDNN's layout for bfloat16."""

    def __init__(self, joined: Sequence[JoinedLayers]) -> None:
        self._joined = joined
        is_half = all(layers.dtype is torch.bfloat16 for layers in joined)
        self._is_packable = is_half and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self._are_quantized: bool | None = None
        self._are_packed: bool | None = None

    def arrange(self, rows: int) -> None:
        """Have what is fastest for so many rows, and note which kernels are used."""
        if not self._is_packable:
            return
        is_few = rows <= nf4_products.FEW_TOKENS
        if is_few and self._are_quantized is None:
            self._are_quantized = self._quantize()
        if is_few and self._are_quantized:
            ran(NF4_PRODUCTS)
            return
        if self._are_packed is None:
            self._are_packed = self._pack(self._joined)
        if self._are_packed:
            ran(PACKED_WEIGHTS)

    def _quantize(self) -> bool:
        """Whether the layers are now in NF4; those that are not NF4's are packed."""
        needed = nf4_products.BYTES_OF_WEIGHT * sum(layers.weights for layers in self._joined)
        if not (is_enabled(NF4_PRODUCTS) and nf4_products.is_supported() and _has_room(needed)):
            return False
        others = [layers for layers in self._joined if not layers.quantize()]
        if len(others) < len(self._joined):
            self._pack(others)
            return True
        return False

    @staticmethod
    def _pack(joined: Sequence[JoinedLayers]) -> bool:
        needed = sum(layers.weights * layers.dtype.itemsize for layers in joined)
        if not (is_enabled(PACKED_WEIGHTS) and _has_room(needed)):
            return False
        for layers in joined:
            layers.pack()
        return True


def _has_room(needed: float) -> bool:
    return SPARE * needed <= psutil.virtual_memory().available


def _base(layer: Any) -> Any:
    return getattr(layer, "base_layer", layer)

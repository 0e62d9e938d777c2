"""LoRA adapters stacked: y = W x + B (m ∘ A x).

A has the rows of all of them, B the columns, each scaled as its adapter says, and a row's m is 1 at
those of its own adapter and 0 at the others'. So a row is added zeros for the others. Layers that
read one input may be stacked together: A then has the rows of all of them, and B is a block for
each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import linear

from chatpipe.kernels.dequantize import compute_dtype_of

FEW_TOKENS = 16  # in bfloat16 on a CPU: products in float32 start several times as fast
MOST_TOKENS = 256  # for which weights in oneDNN's layout are faster than plain ones
UNUSED = 2  # stacked adapters are at most so many times those in use
KEPT = 4  # sets of adapters whose stacks are kept


@dataclass(frozen=True)
class Stack:
    """Adapters of one layer, or of several that read the same input.

    Attributes:
        down: A, (Σr, in).
        up: B, (Σout, Σr).
        names, ranks: The adapter of each part of Σr, and how wide the part is.
    """

    down: torch.Tensor
    up: torch.Tensor
    names: tuple[str, ...]
    ranks: tuple[int, ...]

    def added(
        self, output: torch.Tensor, x: torch.Tensor, own: torch.Tensor | None
    ) -> torch.Tensor:
        """Return output (…, Σout) + B (m ∘ A x), in its place where that is faster. x: (…, in);
        own: as `Masks` has it, None for ones."""
        down, up, flat = self.down, self.up, output.view(-1, len(self.up))
        tokens = len(flat)
        is_half = down.dtype is torch.bfloat16 and down.device.type == "cpu"
        if is_half and tokens <= FEW_TOKENS:  # rounded at the same places as in bfloat16
            down, up = self._in_float32
            thin = self._masked(linear(x.float(), down).to(output.dtype), own)
            sums = flat.float().addmm_(thin.float(), up.T).to(output.dtype)
        elif is_half and tokens <= MOST_TOKENS and self._blocked:
            down, up = self._blocked
            product = torch.ops.mkldnn._linear_pointwise
            thin = self._masked(product(x, down, None, "none", [], ""), own)
            sums = product.binary(thin, flat, up, None, "add")
        else:
            thin = self._masked(linear(x.to(down.dtype), down), own).to(output.dtype)
            sums = flat.addmm_(thin, up.to(output.dtype).T)
        return sums.view_as(output)

    def _masked(self, thin: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """(…, Σr) → (tokens, Σr)."""
        if own is not None:
            thin = thin.view(len(own), -1, len(self.down)) * own
        return thin.view(-1, len(self.down))

    @cached_property
    def _in_float32(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.down.float(), self.up.float()

    @cached_property
    def _blocked(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A and B in oneDNN's layout, where the CPU has products in bfloat16."""
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return None
        reorder = torch.ops.mkldnn._reorder_linear_weight
        return reorder(self.down), reorder(self.up)


class Stacks:
    """The stacks of a model's layers for one set of adapters."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._of_layers: dict[tuple[int, ...], Stack | None] = {}

    def of(self, layers: Sequence[Any]) -> Stack | None:
        """Return the stack of layers that read the same input; None where they have none of these
        adapters."""
        key = tuple(map(id, layers))
        if key not in self._of_layers:
            self._of_layers[key] = _stacked(layers, self._names)
        return self._of_layers[key]


class StackCache:
    """Stacks that are kept while rows of a batch come and go: only masks are made anew. For a model
    whose layers and adapters stay as they are."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Stacks] = {}  # the last used is the last one

    def stacks_for(self, adapters: Sequence[str | None]) -> Stacks:
        """Return stacks of these adapters, and of few others."""
        used = tuple(sorted({name for name in adapters if name}))
        kept = [names for names in self._kept if {*used} <= {*names}]
        fitting = [names for names in kept if len(names) <= UNUSED * len(used)]
        names = min(fitting, key=len, default=used)
        self._kept[names] = self._kept.pop(names) if names in self._kept else Stacks(names)
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return self._kept[names]


class Masks:
    """Which of the stacked adapters is each row's own: one tensor for all layers with the same."""

    def __init__(
        self, adapters: Sequence[str | None], lengths: Sequence[int] | None = None
    ) -> None:
        self.adapters = adapters
        self._lengths = None if lengths is None else torch.tensor(lengths)
        self._masks: dict[Any, torch.Tensor] = {}

    def of(self, stack: Stack) -> torch.Tensor | None:
        """(rows, 1, Σr), or (1, tokens, Σr) of a packed row: 1 at the own adapter, elsewhere 0;
        None for ones."""
        if len({*self.adapters, *stack.names}) == 1:
            return None
        like = stack.down
        kind = (*stack.names, *stack.ranks, like.dtype, like.device)
        if kind not in self._masks:
            own = torch.tensor(
                [[name == of_row for name in stack.names] for of_row in self.adapters]
            )
            own = own.repeat_interleave(torch.tensor(stack.ranks), dim=1)
            if self._lengths is None:
                own = own[:, None]
            else:
                own = own.repeat_interleave(self._lengths, dim=0)[None]
            self._masks[kind] = own.to(like)
        return self._masks[kind]


def _stacked(layers: Sequence[Any], names: Sequence[str]) -> Stack | None:
    used = [[name for name in names if name in getattr(layer, "lora_A", ())] for layer in layers]
    pairs = list(zip(layers, used, strict=True))
    downs = [layer.lora_A[name].weight.detach() for layer, own in pairs for name in own]
    if not downs:
        return None
    blocks = []
    for layer, own in pairs:
        ups = [layer.lora_B[name].weight.detach() * layer.scaling[name] for name in own]
        # Not on the base's device: layers that are fetched when they compute are in main memory.
        none = torch.zeros(layer.out_features, 0, device=downs[0].device)
        blocks.append(torch.cat([none, *ups], dim=1))
    dtype = compute_dtype_of(getattr(layers[0], "base_layer", layers[0]))
    up = torch.block_diag(*blocks) if len(blocks) > 1 else blocks[0]  # type: ignore[no-untyped-call]
    parts = tuple(name for own in used for name in own)
    return Stack(torch.cat(downs).to(dtype), up.to(dtype), parts, tuple(map(len, downs)))

"""LoRA's products while an adapter is trained: layers that read the same input (queries, keys and
values; gate and up) are computed as one.

With W frozen, and x̃ the input after dropout, y = x Wᵀ + s x̃ Aᵀ Bᵀ. Layer by layer, that is six
thin products forward and backward, and as many passes over inputs and outputs only to scale, to
add, and (peft's way) to copy what the base computed. Here a group's A are one matrix, the additions
are part of the products, and one dropout serves the whole group, as if it stood where the input is
made. W is a plain layer's weight, or a 4-bit one's, which is dequantized for each product as
bitsandbytes does. Gradients stay what autograd makes of the expression above (tested).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import Linear4bit as LoraLinear4bit
from torch.autograd.function import once_differentiable

from chatpipe.kernels.dequantize import compute_dtype_of, dequantized_weight
from chatpipe.kernels.forwards import replaced_forwards
from chatpipe.kernels.sparse_dropout import dropped, sample_indices

# What transformers' models call the layers that read the same input.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# peft's layers that are joined, and the base's layers in them; a sharded base has others.
BASES = {LoraLinear: torch.nn.Linear, LoraLinear4bit: bnb.nn.Linear4bit}


@contextmanager
def joined_products(model: torch.nn.Module) -> Iterator[None]:
    """While this lasts, adapted layers whose base is a linear layer, plain or 4-bit, are computed
    by groups; all others as peft does."""
    groups = [Group(layers) for layers in joined_layers(model)]
    forwards = [
        (layer, partial(group.output, place))
        for group in groups
        for place, layer in enumerate(group.layers)
    ]
    with replaced_forwards(forwards):
        yield


def joined_layers(model: torch.nn.Module) -> list[list[Any]]:
    """The adapted layers that are computed by groups, those that read the same input together."""
    return [group for module in model.modules() for group in _siblings(module) if group]


def _siblings(module: torch.nn.Module) -> list[list[Any]]:
    layers = {name: child for name, child in module.named_children() if _is_plain(child)}
    groups = [[layers.pop(name) for name in names if name in layers] for names in SIBLINGS]
    return [*groups, *([layer] for layer in layers.values())]


def _is_plain(layer: Any) -> bool:
    """Whether that is LoRA on a linear layer as this project makes it: one adapter, no variant."""
    if type(layer) not in BASES or type(layer.base_layer) is not BASES[type(layer)]:
        return False
    others = layer.lora_variant or layer.merged or layer.disable_adapters
    biases = any(layer.lora_bias.values())
    active = layer.active_adapters
    return len(active) == 1 and active[0] in layer.lora_A and not others and not biases


class Group(threading.local):
    """Layers that read the same input: the first one asked computes the outputs of all. Each
    thread has its own outputs, because several may pass through the model at once."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self._input: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}

    def output(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """(..., in features) → (..., out features) of the layer at that place."""
        if x is not self._input or place not in self._outputs:
            # Kept only when all is done: what computes a layer again for the backward pass may
            # break off in between, and must not leave that layer's activations here.
            outputs = adapted_products(x, self.layers)
            self._input, self._outputs = x, dict(enumerate(outputs))
        output = self._outputs.pop(place)
        if not self._outputs:
            self._input = None
        return output


def adapted_products(x: torch.Tensor, layers: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """What each of the layers makes of x (..., in features), in the base's type."""
    [adapter] = layers[0].active_adapters
    dropout = getattr(layers[0].lora_dropout[adapter], "p", 0.0) if layers[0].training else 0.0
    bases = [layer.base_layer for layer in layers]
    scales = [layer.scaling[adapter] for layer in layers]
    downs, ups = (
        [getattr(layer, name)[adapter].weight for layer in layers] for name in ("lora_A", "lora_B")
    )
    outputs = _Products.apply(x.flatten(0, -2), bases, scales, dropout, *downs, *ups)  # type: ignore[no-untyped-call]
    return tuple(output.unflatten(0, x.shape[:-1]) for output in outputs)


class _Products(torch.autograd.Function):
    """x (T, in) → (T, out) of each layer. Of T tokens and layers of rank r: read (T, in), x̃ but
    for a CPU's dropout, whose 1/(1 - p) is part of each layer's scale; thin (T, Σr), x̃ Aᵀ; down
    (Σr, in), all A; ups (out, r), the B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        bases: Sequence[Any],
        scales: Sequence[float],
        dropout: float,
        *adapters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        dtype = compute_dtype_of(bases[0])
        whole = x.to(dtype)
        halves = [weight.to(dtype) for weight in adapters]
        downs, ups = halves[: len(bases)], halves[len(bases) :]
        ranks = [len(down) for down in downs]
        down = torch.cat(downs) if len(downs) > 1 else downs[0]
        read, drops = _read(whole, dropout)
        if drops is not None and not _is_mask(drops):
            scales = [scale / (1 - dropout) for scale in scales]
        thin = read @ down.T
        outputs = []
        for base, up, part, scale in zip(
            bases, ups, torch.split(thin, ranks, 1), scales, strict=True
        ):
            outputs.append(base(whole).addmm_(part, up.T, alpha=scale))
        ctx.save_for_backward(read, thin, down, drops, *ups)
        ctx.bases, ctx.scales, ctx.ranks = bases, scales, ranks
        ctx.dropout, ctx.dtype = dropout, x.dtype
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        read, thin, down, drops, *ups = ctx.saved_tensors
        of_thin = torch.empty_like(thin)
        of_ups = []
        parts = (torch.split(tensor, ctx.ranks, 1) for tensor in (thin, of_thin))
        for gradient, up, scale, part, of_part in zip(
            gradients, ups, ctx.scales, *parts, strict=True
        ):
            torch.mul(gradient @ up, scale, out=of_part)
            of_ups.append((gradient.T @ part).float().mul_(scale))
        of_downs = torch.split((of_thin.T @ read).float(), ctx.ranks)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradients[0] @ dequantized_weight(ctx.bases[0])
            for gradient, base in zip(gradients[1:], ctx.bases[1:], strict=True):
                of_x.addmm_(gradient, dequantized_weight(base))
            _add_undropped(of_x, of_thin, down, drops, ctx.dropout)
            of_x = of_x.to(ctx.dtype)
        return of_x, None, None, None, *of_downs, *of_ups


def _read(x: torch.Tensor, dropout: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What A reads of x, and which elements were dropped: their indices on a CPU, where what is
    left is not scaled; elsewhere torch's mask of those that stay, which are scaled. None: all
    stay."""
    if not dropout:
        return x, None
    if x.device.type == "cpu":
        indices = sample_indices(x.numel(), dropout)
        return dropped(x, indices), indices
    return torch.native_dropout(x, dropout, True)


def _is_mask(drops: torch.Tensor) -> bool:
    return drops.dtype is torch.bool


def _add_undropped(
    sums: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    drops: torch.Tensor | None,
    dropout: float,
) -> None:
    """sums += left @ right, but not where an element was dropped (see `_read`)."""
    if drops is None:
        sums.addmm_(left, right)
    elif _is_mask(drops):
        sums.add_(torch.ops.aten.native_dropout_backward(left @ right, drops, 1 / (1 - dropout)))
    else:
        flat = sums.view(-1)
        before = flat.index_select(0, drops)
        sums.addmm_(left, right)
        flat.index_copy_(0, drops, before)

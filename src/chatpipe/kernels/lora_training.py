"""LoRA's products while an adapter is trained: layers that read the same input (queries, keys and
values; gate and up) are computed as one.

With W frozen, and x̃ the input after dropout, y = x Wᵀ + s x̃ Aᵀ Bᵀ. Layer by layer, that is six
thin products forward and backward, and as many passes over inputs and outputs only to scale, to
add, and (peft's way) to copy what the base computed. Here a group's A are one matrix, the additions
are part of the products, and one dropout serves the whole group, as if it stood where the input is
made. W is a plain layer's weight, or a 4-bit one's, which is dequantized for each product as
bitsandbytes does. Gradients stay what autograd makes of the expression above (tested).

Rows of one input may pass through different adapters: W's products are of all rows at once, an
adapter's of its own rows (`Share`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import bitsandbytes as bnb
import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import Linear4bit as LoraLinear4bit
from torch.autograd.function import once_differentiable

from chatpipe.kernels.dequantize import compute_dtype_of, dequantized_weight
from chatpipe.kernels.forwards import Forward, replaced_forwards
from chatpipe.kernels.sparse_dropout import dropped, sample_indices

# What transformers' models call the layers that read the same input.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# peft's layers that are joined, and the base's layers in them; a sharded base has others.
BASES = {LoraLinear: torch.nn.Linear, LoraLinear4bit: bnb.nn.Linear4bit}


class Share(NamedTuple):
    """The rows of an input that pass through one adapter: from `start` to before `end` (None: to
    the last). `layers` are the group's, as that adapter has them; the adapter's dropout is drawn
    within `drawing`."""

    layers: Sequence[Any]
    start: int = 0
    end: int | None = None
    drawing: Callable[[], AbstractContextManager[None]] = nullcontext


Shares = Callable[[], Sequence[Share]]


@contextmanager
def joined_products(model: torch.nn.Module) -> Iterator[None]:
    """While this lasts, adapted layers whose base is a linear layer, plain or 4-bit, are computed
    by groups; all others as peft does."""
    layers = joined_layers(model)
    groups = [Group(partial(_whole_input, of_group)) for of_group in layers]
    forwards = [
        forward
        for of_group, group in zip(layers, groups, strict=True)
        for forward in group_forwards(of_group, group)
    ]

    def forget(*_: Any) -> None:
        for group in groups:
            group.forget()

    before_passes = model.register_forward_pre_hook(forget)
    try:
        with replaced_forwards(forwards):
            yield
    finally:
        before_passes.remove()


def _whole_input(layers: Sequence[Any]) -> Sequence[Share]:
    return [Share(layers)]


def group_forwards(layers: Sequence[torch.nn.Module], group: Group) -> list[tuple[Any, Forward]]:
    """These layers, which read the same input, each with what computes it as a part of the
    group."""
    return [(layer, partial(group.output, place)) for place, layer in enumerate(layers)]


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
    thread has its own outputs, because several may pass through the model at once. `shares` says at
    every pass through which adapters the input's rows go."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self._input: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}

    def output(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """(..., in features) → (..., out features) of the layer at that place."""
        if x is not self._input or place not in self._outputs:
            # Kept only when all is done: what computes a layer again for the backward pass may
            # break off in between, and must not leave that layer's activations here.
            outputs = adapted_products(x, self.shares())
            self._input, self._outputs = x, dict(enumerate(outputs))
        output = self._outputs.pop(place)
        if not self._outputs:
            self._input = None
        return output

    def forget(self) -> None:
        """Free what a pass has left here that broke off between two layers of the group, where
        memory ended: with it, all that the layers before had saved for the backward pass."""
        self._input, self._outputs = None, {}


def adapted_products(x: torch.Tensor, shares: Sequence[Share]) -> tuple[torch.Tensor, ...]:
    """What each layer of a group makes of x (..., in features), in the base's type."""
    bases = [layer.base_layer for layer in shares[0].layers]
    weights = [weight for share in shares for weight in _weights(share.layers)]
    adapters = [_Adapter.of(share) for share in shares]
    outputs = _Products.apply(x.flatten(0, -2), bases, adapters, *weights)  # type: ignore[no-untyped-call]
    return tuple(output.unflatten(0, x.shape[:-1]) for output in outputs)


def _weights(layers: Sequence[Any]) -> list[torch.Tensor]:
    """A of every layer, then B of every layer."""
    [adapter] = layers[0].active_adapters
    return [
        getattr(layer, name)[adapter].weight for name in ("lora_A", "lora_B") for layer in layers
    ]


class _Adapter(NamedTuple):
    """What is not a tensor of a share: its rows, the layers' scales, and the dropout."""

    rows: slice
    scales: list[float]
    dropout: float
    drawing: Callable[[], AbstractContextManager[None]]

    @classmethod
    def of(cls, share: Share) -> _Adapter:
        [adapter] = share.layers[0].active_adapters
        first = share.layers[0]
        dropout = getattr(first.lora_dropout[adapter], "p", 0.0) if first.training else 0.0
        scales = [layer.scaling[adapter] for layer in share.layers]
        return cls(slice(share.start, share.end), scales, dropout, share.drawing)


class _Saved(NamedTuple):
    """Of one share of T tokens, for the backward pass: read (T, in), x̃ but for a CPU's dropout,
    whose 1/(1 - p) is part of each layer's scale; thin (T, Σr), x̃ Aᵀ; down (Σr, in), all A; what
    was dropped (see `_read`); ups, each (out, r), the B."""

    read: torch.Tensor
    thin: torch.Tensor
    down: torch.Tensor
    drops: torch.Tensor | None
    ups: Sequence[torch.Tensor]

    @property
    def ranks(self) -> list[int]:
        return [up.shape[1] for up in self.ups]


class _Products(torch.autograd.Function):
    """x (T, in) → (T, out) of each layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        bases: Sequence[Any],
        adapters: Sequence[_Adapter],
        *weights: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        whole = x.to(compute_dtype_of(bases[0]))
        outputs = tuple(base(whole) for base in bases)
        saved: list[torch.Tensor | None] = []
        ctx.adapters = []
        for adapter, own in zip(adapters, _divided(weights, len(adapters)), strict=True):
            part, scales = _add_adapter(whole, outputs, adapter, own)
            ctx.adapters.append(adapter._replace(scales=scales))
            saved += [part.read, part.thin, part.down, part.drops, *part.ups]
        ctx.save_for_backward(*saved)
        ctx.bases, ctx.dtype = bases, x.dtype
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradients[0] @ dequantized_weight(ctx.bases[0])
            for gradient, base in zip(gradients[1:], ctx.bases[1:], strict=True):
                of_x.addmm_(gradient, dequantized_weight(base))
        of_weights: list[torch.Tensor] = []
        parts = _divided(ctx.saved_tensors, len(ctx.adapters))
        for adapter, (read, thin, down, drops, *ups) in zip(ctx.adapters, parts, strict=True):
            part = _Saved(read, thin, down, drops, ups)
            own = [gradient[adapter.rows] for gradient in gradients]
            of_x_part = None if of_x is None else of_x[adapter.rows]
            of_weights += _adapter_gradients(own, of_x_part, adapter, part)
        of_x = None if of_x is None else of_x.to(ctx.dtype)
        return of_x, None, None, *of_weights


def _divided(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    size = len(items) // parts
    return [items[start : start + size] for start in range(0, len(items), size)]


def _add_adapter(
    whole: torch.Tensor,
    outputs: Sequence[torch.Tensor],
    adapter: _Adapter,
    weights: Sequence[torch.Tensor],
) -> tuple[_Saved, list[float]]:
    """Add the adapter's products to the outputs of its rows; return what the backward pass needs,
    and the scales that were used."""
    halves = [weight.to(whole.dtype) for weight in weights]
    downs, ups = _divided(halves, 2)
    down = torch.cat(list(downs)) if len(downs) > 1 else downs[0]
    with adapter.drawing():
        read, drops = _read(whole[adapter.rows], adapter.dropout)
    scales = adapter.scales
    if drops is not None and not _is_mask(drops):
        scales = [scale / (1 - adapter.dropout) for scale in scales]
    saved = _Saved(read, read @ down.T, down, drops, ups)
    parts = torch.split(saved.thin, saved.ranks, 1)
    for output, up, part, scale in zip(outputs, ups, parts, scales, strict=True):
        output[adapter.rows].addmm_(part, up.T, alpha=scale)
    return saved, scales


def _adapter_gradients(
    gradients: Sequence[torch.Tensor], of_x: torch.Tensor | None, adapter: _Adapter, saved: _Saved
) -> list[torch.Tensor]:
    """Return the gradients of A and of B of every layer, and add the adapter's to that of x, all
    of the adapter's own rows."""
    of_thin = torch.empty_like(saved.thin)
    of_ups = []
    parts = (torch.split(tensor, saved.ranks, 1) for tensor in (saved.thin, of_thin))
    for gradient, up, scale, part, of_part in zip(
        gradients, saved.ups, adapter.scales, *parts, strict=True
    ):
        torch.mul(gradient @ up, scale, out=of_part)
        of_ups.append((gradient.T @ part).float().mul_(scale))
    of_downs = torch.split((of_thin.T @ saved.read).float(), saved.ranks)
    if of_x is not None:
        _add_undropped(of_x, of_thin, saved.down, saved.drops, adapter.dropout)
    return [*of_downs, *of_ups]


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

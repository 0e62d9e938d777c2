"""Adapters at inference: all rows of a batch pass through one, or each through its own or none.

A layer's adapters are computed as one, y = W x + B (m ∘ A x): A has the rows of all of them, B the
columns, each scaled as its adapter says, and a row's m is 1 at those of its own adapter and 0 at
the others'. So a row is added zeros for the others, and there are a few small operations a layer,
however many adapters there are. (peft's own are five for each of them, in float32 and over whole
outputs: reading a text through an adapter took 1.4 times as long as through the base alone.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, Linear4bit, LoraLayer

from chatpipe.kernels.dequantize import compute_dtype_of
from chatpipe.kernels.forwards import Forward, replaced_forwards
from chatpipe.kernels.switch import is_enabled, ran

LORA_INFERENCE = "lora_inference"
FEW_TOKENS = 16  # of bfloat16 on a CPU


def can_mix(model: Any) -> bool:
    """Whether all that was adapted are linear layers, by plain LoRA, and every one of them sees all
    tokens of a batch in their order: not so where tokens are dealt out among experts."""
    if not is_enabled(LORA_INFERENCE):
        return False
    experts = any("expert" in name for name, _ in model.named_modules())
    return not experts and all(_is_plain(layer) for layer in _adapted(model))


def active(model: Any) -> str | None:
    """The name of the adapter that the model has on, if it has one."""
    return str(model.active_adapter) if isinstance(model, PeftModel) else None


@contextmanager
def through(model: Any, adapter: str | None) -> Iterator[None]:
    """While this lasts, all rows pass through that adapter, or through the base alone. For
    inference. ValueError where the model has no adapter of that name."""
    with switched_to(model, adapter):
        used = _adapted(model) if is_enabled(LORA_INFERENCE) else []
        with _joined([layer for layer in used if _is_plain(layer)], [adapter]):
            yield


@contextmanager
def row_by_row(model: Any, adapters: Sequence[str | None]) -> Iterator[None]:
    """While this lasts, row n of a batch passes through adapter n, or through the base alone where
    that is None. For inference; where the adapters differ, for a model that `can_mix`."""
    one = len(set(adapters)) == 1
    with through(model, adapters[0]) if one else _joined(_adapted(model), adapters):
        yield


@contextmanager
def example_by_example(
    model: Any, adapters: Sequence[str | None], lengths: Sequence[int]
) -> Iterator[None]:
    """As row_by_row for examples of a packed row; lengths: how many tokens of each are computed."""
    one = len(set(adapters)) == 1
    layers = [] if one else _adapted(model)
    with through(model, adapters[0]) if one else _joined(layers, adapters, lengths):
        yield


@contextmanager
def switched_to(model: Any, adapter: str | None) -> Iterator[None]:
    """While this lasts, peft has that adapter on, or none."""
    before = active(model)
    if adapter == before:
        yield
    elif before is None:
        raise ValueError(f"the model has no adapter {adapter}.")
    else:
        with model.disable_adapter() if adapter is None else nullcontext():
            if adapter is not None:
                model.set_adapter(adapter, inference_mode=True)
            try:
                yield
            finally:
                model.set_adapter(before, inference_mode=True)


@contextmanager
def _joined(
    layers: Sequence[Any], adapters: Sequence[str | None], lengths: Sequence[int] | None = None
) -> Iterator[None]:
    masks = _Masks(adapters, lengths)
    forwards = [(layer, _forward(layer, masks)) for layer in layers]
    if forwards:
        ran(LORA_INFERENCE)
    with replaced_forwards(forwards):
        yield


def _adapted(model: Any) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def _is_plain(layer: Any) -> bool:
    others = layer.lora_variant or layer.merged or any(layer.lora_bias.values())
    return type(layer) in (Linear, Linear4bit) and not others


class _Masks:
    """Which of the joined adapters is each row's own: one tensor for all layers with the same."""

    def __init__(self, adapters: Sequence[str | None], lengths: Sequence[int] | None) -> None:
        self.adapters = adapters
        self._lengths = None if lengths is None else torch.tensor(lengths)
        self._masks: dict[Any, torch.Tensor] = {}

    def mask(self, names: Sequence[str], ranks: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """(rows, 1, Σr), or (1, tokens, Σr) of a packed row: 1 at the own adapter, elsewhere 0."""
        kind = (*names, *ranks, like.dtype, like.device)
        if kind not in self._masks:
            own = torch.tensor([[name == of_row for name in names] for of_row in self.adapters])
            own = own.repeat_interleave(torch.tensor(ranks), dim=1)
            if self._lengths is None:
                own = own[:, None]
            else:
                own = own.repeat_interleave(self._lengths, dim=0)[None]
            self._masks[kind] = own.to(like)
        return self._masks[kind]


def _forward(layer: Any, masks: _Masks) -> Forward:
    """What that layer computes for rows of these adapters."""
    used = [name for name in dict.fromkeys(masks.adapters) if name and name in layer.lora_A]
    if not used:
        return layer.base_layer.__call__  # type: ignore[no-any-return]
    dtype = compute_dtype_of(layer.base_layer)
    downs = [layer.lora_A[name].weight.detach() for name in used]
    ups = [layer.lora_B[name].weight.detach() * layer.scaling[name] for name in used]
    down, up = torch.cat(downs).to(dtype), torch.cat(ups, dim=1).to(dtype)
    one = len(set(masks.adapters)) == 1
    own = None if one else masks.mask(used, [len(of_one) for of_one in downs], down)
    products = partial(_products, layer.base_layer, down, up, own)
    if dtype is not torch.bfloat16 or down.device.type != "cpu":
        return products
    return partial(_products_in_float32, products, layer.base_layer, down.float(), up.float(), own)


def _products(
    base: Any, down: torch.Tensor, up: torch.Tensor, own: torch.Tensor | None, x: torch.Tensor
) -> torch.Tensor:
    """(rows, tokens, in) → (rows, tokens, out), or both with rows and tokens in one dimension, as
    some models have it. down: (Σr, in); up: (out, Σr); own: as `_Masks` has it, None for ones."""
    output: torch.Tensor = base(x)
    thin = torch.nn.functional.linear(x.to(down.dtype), down)
    if own is not None:
        thin = thin.view(len(own), -1, len(down)) * own
    thin, up = thin.view(-1, len(down)).to(output.dtype), up.to(output.dtype)
    output.view(-1, len(up)).addmm_(thin, up.T)
    return output


def _products_in_float32(
    many: Forward,
    base: Any,
    down: torch.Tensor,
    up: torch.Tensor,
    own: torch.Tensor | None,
    x: torch.Tensor,
) -> torch.Tensor:
    """As _products, which is `many`, for bfloat16 on a CPU: the thin products of few tokens are
    computed in float32, which starts ten times as fast, and rounded at the same places. down and up
    are float32."""
    if x.numel() > FEW_TOKENS * x.shape[-1]:
        return many(x)
    output: torch.Tensor = base(x)
    thin = torch.nn.functional.linear(x.float(), down).to(output.dtype)
    if own is not None:
        thin = thin.view(len(own), -1, len(down)) * own
    sums = output.view(-1, len(up)).float().addmm_(thin.view(-1, len(down)).float(), up.T)
    return sums.to(output.dtype).view_as(output)

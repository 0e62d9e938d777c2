"""Several adapters of one base in one batch: every row passes through its own, or through none.

A layer's adapters are computed as one, y = W x + B (m ∘ A x): A has the rows of all of them, B the
columns, and a row's m is the scale at those of its own adapter and 0 at the others'. So a row is
added zeros for the others, and there are a few small operations a layer, however many adapters
there are (peft's own `adapter_names` makes five for each of them, and rounds once more).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, Linear4bit, LoraLayer


def can_mix(model: Any) -> bool:
    """Whether all that was adapted are linear layers, by plain LoRA, and every one of them sees all
    tokens of a batch in their order: not so where tokens are dealt out among experts."""
    experts = any("expert" in name for name, _ in model.named_modules())
    return not experts and all(_is_plain(layer) for layer in _adapted(model))


def active(model: Any) -> str | None:
    """The name of the adapter that the model has on, if it has one."""
    return str(model.active_adapter) if isinstance(model, PeftModel) else None


@contextmanager
def through(model: Any, adapter: str | None) -> Iterator[None]:
    """While this lasts, all rows pass through that adapter, or through the base alone. ValueError
    where the model has no adapter of that name."""
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
def row_by_row(model: Any, adapters: Sequence[str | None]) -> Iterator[None]:
    """While this lasts, row n of a batch passes through adapter n, or through the base alone where
    that is None. For inference; where the adapters differ, for a model that `can_mix`."""
    if len(set(adapters)) == 1:
        with through(model, adapters[0]):
            yield
        return
    forwards = [(layer, _mixed(layer, adapters)) for layer in _adapted(model)]
    for layer, forward in forwards:
        layer.forward = forward
    try:
        yield
    finally:
        for layer, _ in forwards:
            del layer.forward


def _adapted(model: Any) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def _is_plain(layer: Any) -> bool:
    others = layer.lora_variant or layer.merged or any(layer.lora_bias.values())
    return type(layer) in (Linear, Linear4bit) and not others


def _mixed(layer: Any, adapters: Sequence[str | None]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What that layer computes for rows of these adapters."""
    used = [name for name in dict.fromkeys(adapters) if name in layer.lora_A]
    if not used:
        return layer.base_layer.__call__  # type: ignore[no-any-return]
    downs = [layer.lora_A[name].weight for name in used]
    ranks = torch.tensor([len(down) for down in downs])
    shares = torch.tensor(
        [[layer.scaling[name] * (name == of_row) for name in used] for of_row in adapters]
    ).repeat_interleave(ranks, dim=1)
    down = torch.cat(downs).detach()
    up = torch.cat([layer.lora_B[name].weight for name in used], dim=1).detach()
    return partial(_products, layer.base_layer, down, up, shares[:, None].to(down))


def _products(
    base: Any, down: torch.Tensor, up: torch.Tensor, shares: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """(rows, tokens, in) → (rows, tokens, out), or both with rows and tokens in one dimension, as
    some models have it. down: (Σr, in); up: (out, Σr); shares: (rows, 1, Σr)."""
    output: torch.Tensor = base(x)
    thin = (x.to(down.dtype) @ down.T).view(len(shares), -1, len(down)) * shares
    return (output + (thin @ up.T).view(output.shape)).to(output.dtype)

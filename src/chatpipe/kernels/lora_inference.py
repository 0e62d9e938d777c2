"""Adapters at inference: all rows of a batch pass through one, or each through its own or none.

A layer's adapters are computed as one (`kernels.adapter_stacks`), by a few small operations a
layer, however many adapters there are. (peft's own are five for each of them, in float32 and over
whole outputs: reading a text through an adapter took 1.4 times as long as through the base alone.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, Linear4bit, LoraLayer

from chatpipe.kernels.adapter_stacks import Masks, Stack, StackCache, Stacks
from chatpipe.kernels.forwards import Forward, replaced_forwards
from chatpipe.kernels.switch import is_enabled, ran

LORA_INFERENCE = "lora_inference"


def can_mix(model: Any) -> bool:
    """Whether all that was adapted are linear layers, by plain LoRA, and every one of them sees all
    tokens of a batch in their order: not so where tokens are dealt out among experts."""
    if not is_enabled(LORA_INFERENCE):
        return False
    experts = any("expert" in name for name, _ in model.named_modules())
    return not experts and all(is_plain(layer) for layer in adapted_layers(model))


def active(model: Any) -> str | None:
    """The name of the adapter that the model has on, if it has one."""
    return str(model.active_adapter) if isinstance(model, PeftModel) else None


@contextmanager
def through(model: Any, adapter: str | None, stacks: StackCache | None = None) -> Iterator[None]:
    """While this lasts, all rows pass through that adapter, or through the base alone. For
    inference. ValueError where the model has no adapter of that name."""
    with switched_to(model, adapter):
        used = adapted_layers(model) if is_enabled(LORA_INFERENCE) else []
        with _joined([layer for layer in used if is_plain(layer)], Masks([adapter]), stacks):
            yield


@contextmanager
def row_by_row(
    model: Any, adapters: Sequence[str | None], stacks: StackCache | None = None
) -> Iterator[None]:
    """While this lasts, row n of a batch passes through adapter n, or through the base alone where
    that is None. For inference; where the adapters differ, for a model that `can_mix`. stacks: kept
    from one call to the next, where rows come and go."""
    if len(set(adapters)) == 1:
        with through(model, adapters[0], stacks):
            yield
    else:
        with _joined(adapted_layers(model), Masks(adapters), stacks):
            yield


@contextmanager
def example_by_example(
    model: Any,
    adapters: Sequence[str | None],
    lengths: Sequence[int],
    stacks: StackCache | None = None,
) -> Iterator[None]:
    """As row_by_row for examples of a packed row; lengths: how many tokens of each are computed."""
    if len(set(adapters)) == 1:
        with through(model, adapters[0], stacks):
            yield
    else:
        with _joined(adapted_layers(model), Masks(adapters, lengths), stacks):
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


def adapted_layers(model: Any) -> list[Any]:
    """The layers that have adapters."""
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def is_plain(layer: Any) -> bool:
    """Whether that is LoRA on a linear layer, and nothing else."""
    others = layer.lora_variant or layer.merged or any(layer.lora_bias.values())
    return type(layer) in (Linear, Linear4bit) and not others


@contextmanager
def _joined(
    layers: Sequence[Any], masks: Masks, stacks: StackCache | None = None
) -> Iterator[None]:
    used = (stacks or StackCache()).stacks_for(masks.adapters)
    forwards = [(layer, _forward(layer, masks, used)) for layer in layers]
    if forwards:
        ran(LORA_INFERENCE)
    with replaced_forwards(forwards):
        yield


def _forward(layer: Any, masks: Masks, stacks: Stacks) -> Forward:
    """What that layer computes for rows of these adapters."""
    stack = stacks.of([layer])
    if stack is None:
        return layer.base_layer.__call__  # type: ignore[no-any-return]
    return partial(_product, layer.base_layer, stack, masks.of(stack))


def _product(base: Any, stack: Stack, own: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """(rows, tokens, in) → (rows, tokens, out), or both with rows and tokens in one dimension, as
    some models have it."""
    return stack.added(base(x), x, own)

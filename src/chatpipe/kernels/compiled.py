"""Norms, gated units and rotary positions compiled by torch (`torch.compile`), where
$CHATPIPE_KERNELS names `compile`.

torch computes each of them in several passes over all hidden states, and compiled in one or two,
forward and backward. They are compiled when they are first computed, once in a process for a class,
a type and any number of tokens. The rest of a layer is not compiled: packed attention and joined
LoRA products are Python code about lists of rows, at which the compiler stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from transformers.models.llama import modeling_llama as llama

from chatpipe.kernels.forwards import (
    Forward,
    Rotation,
    has_code_of,
    replaced_forwards,
    replaced_rotations,
)
from chatpipe.kernels.switch import COMPILE, is_enabled, ran

# Of the threads that a product may use then, not of those when it was compiled.
OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"cpp.dynamic_threads": True}


@contextmanager
def compiled_layers(model: torch.nn.Module) -> Iterator[None]:
    """While this lasts, the model's norms, gated units and rotations are computed by compiled code,
    but for those that another kernel has replaced already."""
    if not is_enabled(COMPILE):
        yield
        return
    ran(COMPILE)
    with replaced_forwards(_forwards(model)), replaced_rotations(model, _rotation):
        yield


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the compiled function. It is compiled at its first call."""
    return torch.compile(function, dynamic=True, options=OPTIONS)


def _forwards(model: torch.nn.Module) -> list[tuple[Any, Forward]]:
    forwards: list[tuple[Any, Forward]] = []
    for layer in model.modules():
        if "forward" in vars(layer):
            continue  # another kernel's, or accelerate's, which fetches weights
        if _is_norm(layer):
            forwards.append((layer, partial(compiled(type(layer).forward), layer)))
        elif has_code_of(llama.LlamaMLP.forward, type(layer).forward):
            forwards.append((layer, partial(_gated, layer)))
    return forwards


def _is_norm(layer: torch.nn.Module) -> bool:
    """Whether the layer has nothing but weights of one dimension, and code of its model's own:
    torch's own norms are one kernel."""
    weights = [*layer.parameters()]
    return (
        bool(weights)
        and all(weight.dim() == 1 for weight in weights)
        and not any(layer.children())
        and type(layer).__module__.startswith("transformers.models.")
    )


def _gated(unit: Any, x: torch.Tensor) -> torch.Tensor:
    """(..., features) → the same."""
    product = compiled(_gated_product)(unit.act_fn, unit.gate_proj(x), unit.up_proj(x))
    return unit.down_proj(product)  # type: ignore[no-any-return]


def _gated_product(activation: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return activation(gate) * up  # type: ignore[no-any-return]


def _rotation(plain: Rotation) -> Rotation | None:
    return None if isinstance(plain, partial) else compiled(plain)

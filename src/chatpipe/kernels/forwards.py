"""Layers and functions of a model that compute in another way for a while."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Forward = Callable[[torch.Tensor], torch.Tensor]
Rotation = Callable[..., tuple[torch.Tensor, torch.Tensor]]
ROTATION = "apply_rotary_pos_emb"  # the name of the function in transformers' modules


@contextmanager
def replaced_forwards(forwards: Sequence[tuple[Any, Forward]]) -> Iterator[None]:
    """While this lasts, each layer is computed by the function beside it; afterwards by its own
    forward again, also after an error or Ctrl-C."""
    try:
        for layer, forward in forwards:
            layer.forward = forward
        yield
    finally:
        for layer, _ in forwards:
            layer.__dict__.pop("forward", None)


@contextmanager
def replaced_rotations(
    model: torch.nn.Module, replacement: Callable[[Rotation], Rotation | None]
) -> Iterator[None]:
    """While this lasts, the function that rotates queries and keys is what `replacement` returns
    for it, in each of the Python modules in which the model's classes look it up. For None it
    stays."""
    modules = {sys.modules[type(layer).__module__] for layer in model.modules()}
    plain = {module: vars(module)[ROTATION] for module in modules if ROTATION in vars(module)}
    try:
        for module, function in plain.items():
            setattr(module, ROTATION, replacement(function) or function)
        yield
    finally:
        for module, function in plain.items():
            setattr(module, ROTATION, function)


def has_code_of(reference: Callable[..., Any], function: Any) -> bool:
    """Whether the function has the same instructions, on the same names and numbers."""
    code, other = reference.__code__, getattr(function, "__code__", None)
    return other is not None and _instructions(code) == _instructions(other)


def _instructions(code: Any) -> tuple[Any, ...]:
    constants = [constant for constant in code.co_consts if not isinstance(constant, str)]
    return code.co_code, code.co_names, constants

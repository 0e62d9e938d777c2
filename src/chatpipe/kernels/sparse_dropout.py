"""LoRA's dropout on CPUs: the places that are dropped are drawn, where torch draws a number for
every element, which takes eight times as long and a fifth of a training.

Each of n elements is to be dropped with probability p, whatever becomes of the others. Draw a
Poisson number of places, with mean -n ln(1 - p), each anywhere with the same chance: then a Poisson
number of them, with mean -ln(1 - p), falls on each element, independently of the others (Poisson
splitting), and none does with probability 1 - p. The numbers are those of torch's own generator, or
of one seeded from it: seeds hold, and so do checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from chatpipe.kernels.switch import is_enabled, ran

_GENERATOR: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


class SparseDropout(torch.nn.Dropout):
    """torch's dropout by the places that are dropped."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Any shape → the same; the input itself where this is not training."""
        if not self.training or not self.p:
            return input
        places = sample_indices(input.numel(), self.p)
        return _Drop.apply(input, places, 1 / (1 - self.p))  # type: ignore[no-any-return, no-untyped-call]


def places_per_element(p: float) -> float:
    """How many places are drawn for an element, on average."""
    return -math.log1p(-p)


def sample_indices(elements: int, p: float) -> torch.Tensor:
    """Places among so many elements, some more than once: every element is one of them with
    probability p (below 1)."""
    ran("sparse_dropout")
    generator = _GENERATOR.get()
    mean = torch.tensor(elements * places_per_element(p), dtype=torch.float64)
    count = int(torch.poisson(mean, generator=generator))
    return torch.randint(elements, (count,), generator=generator)


def seeded(seed: int) -> AbstractContextManager[None]:
    """While this lasts, this thread's places are drawn from that seed, whatever others draw."""
    return drawn_from(torch.Generator().manual_seed(seed))


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """While this lasts, this thread's places are drawn by that generator, whatever others draw."""
    token = _GENERATOR.set(generator)
    try:
        yield
    finally:
        _GENERATOR.reset(token)


def use_sparse_dropout(model: torch.nn.Module) -> None:
    """Replace the dropout of every adapted layer of a peft model, in place."""
    if not is_enabled("sparse_dropout"):
        return
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for adapter, dropout in layer.lora_dropout.items():
                if isinstance(dropout, torch.nn.Dropout):
                    layer.lora_dropout[adapter] = SparseDropout(dropout.p)


class _Drop(torch.autograd.Function):
    """Zero at the places, and elsewhere `scale` times what is there; its gradient likewise."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.scale = scale
        return dropped(values, places, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return dropped(gradients[0], places, ctx.scale), None, None


def dropped(values: torch.Tensor, places: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """A copy, `scale` times the values, with zeros at those places of them."""
    scaled = values.contiguous() * scale
    scaled.view(-1).index_fill_(0, places, 0)
    return scaled

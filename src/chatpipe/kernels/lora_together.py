"""LoRA's products in one pass through a base for several adapters that are being trained: each
packed row of tokens has parts, and every part passes through an adapter of its own.

The adapters are on copies of the base that share its weights. The pass is through the base itself,
of which each adapted layer is computed with the products of all adapters (`lora_training`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer

from chatpipe.kernels.forwards import replaced_forwards
from chatpipe.kernels.lora_training import Group, Share, group_forwards, joined_layers
from chatpipe.kernels.sparse_dropout import drawn_from


class Draws:
    """The random numbers of one training's dropout, as the training alone would draw them: on a
    CPU by a generator, on a GPU by the device's own, in the state that the training left it in."""

    def __init__(self, generator: torch.Generator, cuda_state: torch.Tensor | None = None) -> None:
        self.generator = generator
        self.cuda_state = cuda_state

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """While this lasts, dropout is drawn so."""
        if self.cuda_state is None:
            with drawn_from(self.generator):
                yield
            return
        torch.cuda.set_rng_state(self.cuda_state)
        yield
        self.cuda_state = torch.cuda.get_rng_state()


class Part(NamedTuple):
    """The next `tokens` tokens of a packed row, which pass through the adapter of that name."""

    tokens: int
    adapter: Any
    draws: Draws


class AdapterSet:
    """The adapters that are trained on one base, all on the layers that `model` (peft's) adapts.
    Threads may pass through the base at once, each with parts of its own."""

    def __init__(self, base: torch.nn.Module, model: Any) -> None:
        self.base = base
        adapted = model.get_base_model()
        names = {id(layer): name for name, layer in adapted.named_modules()}
        self._names = [[names[id(layer)] for layer in group] for group in joined_layers(adapted)]
        self._layers: dict[Any, list[Sequence[Any]]] = {}
        self._parts: dict[int, Sequence[Part]] = {}

    def add(self, adapter: Any, model: Any) -> None:
        """Add the adapter of that peft model."""
        self._layers[adapter] = list(joined_layers(model.get_base_model()))

    @contextmanager
    def on_base(self) -> Iterator[None]:
        """While this lasts, the base's layers have the adapters of the parts in `passing`."""
        forwards = [
            forward
            for place, names in enumerate(self._names)
            for forward in group_forwards(
                [self.base.get_submodule(name) for name in names],
                Group(partial(self._shares, place)),
            )
        ]
        with replaced_forwards(forwards):
            yield

    @contextmanager
    def passing(self, parts: Sequence[Part]) -> Iterator[None]:
        """While this lasts, what this thread computes has these parts, in this order."""
        self._parts[get_ident()] = parts
        try:
            yield
        finally:
            del self._parts[get_ident()]

    def _shares(self, group: int) -> list[Share]:
        shares: list[Share] = []
        end = 0
        for part in self._parts_here():
            start, end = end, end + part.tokens
            layers = self._layers[part.adapter][group]
            shares.append(Share(layers, start, end, part.draws.drawing))
        return shares

    def _parts_here(self) -> Sequence[Part]:
        """The parts of this thread's pass; on a GPU, torch computes layers again in another
        thread, for the only pass that there is."""
        if get_ident() in self._parts:
            return self._parts[get_ident()]
        [parts] = self._parts.values()
        return parts


def has_only_joined_layers(model: Any) -> bool:
    """Whether every adapted layer of a peft model is one of those that are computed by groups."""
    joined = sum(len(group) for group in joined_layers(model))
    return joined == sum(isinstance(layer, LoraLayer) for layer in model.modules())

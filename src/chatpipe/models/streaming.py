"""A 4-bit base that stays in main memory: its layers are fetched to the GPU when they are computed,
each while the one before it computes. Without gradients.

Two buffers on the GPU take turns: one has the layer that computes, the other one is being filled.
What a layer needs of main memory is one pinned block, which is copied at once on a stream of its
own. A buffer is filled when the layer that used it before has computed, and used when it is filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from chatpipe.models.linear4bit import (
    SeparableLinear4bit,
    blocks,
    separable_layers,
    separate_layers,
)
from chatpipe.models.sharding import bring

ALIGNED = 512  # bytes: the beginning of what CUDA allocates, which kernels may expect
BUFFERS = 2


def stream_base(base: Any, device: torch.device) -> None:
    """Leave the 4-bit layers in main memory, and bring the rest to `device`, in place."""
    layers = blocks(base)
    for layer in layers:
        separate_layers(layer, device, lambda tensor: tensor)
    LayerStream(layers, device).attach()
    bring(base, device)
    base.hf_device_map = {"": device}
    base.is_streamed = True


def is_streamed(model: Any) -> bool:
    """Return whether the model's layers are in main memory, and are fetched."""
    return bool(getattr(model, "is_streamed", False))


class LayerStream:
    """The layers of a base in their order, after the last of which the first comes again."""

    def __init__(self, layers: Sequence[torch.nn.Module], device: torch.device) -> None:
        self._layers = layers
        self._blocks = [_Block(layer, is_pinned=device.type == "cuda") for layer in layers]
        size = max(block.content.numel() for block in self._blocks)
        self._buffers = [
            _Buffer(torch.empty(size, dtype=torch.uint8, device=device)) for _ in range(BUFFERS)
        ]
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def attach(self) -> None:
        """Have the layers fetched by their own forward pass."""
        for place, layer in enumerate(self._layers):
            layer.register_forward_pre_hook(partial(self._before, place))
            layer.register_forward_hook(partial(self._after, place), always_call=True)

    def _before(self, place: int, *_: Any) -> None:
        """Have this layer on the device, and begin to fetch the next one."""
        buffer = self._buffer_of(place)
        if buffer is None:  # the first pass, or layers in another order
            buffer = next(each for each in self._buffers if not each.is_used)
            self._fetch(place, buffer)
        buffer.is_used = True
        buffer.wait_until_filled()
        self._blocks[place].point_to(buffer.content)
        following = (place + 1) % len(self._layers)
        free = [each for each in self._buffers if not each.is_used]
        if free and self._buffer_of(following) is None:
            self._fetch(following, free[0])

    def _after(self, place: int, *_: Any) -> None:
        buffer = self._buffer_of(place)
        if buffer is not None:
            buffer.give_back()
        self._blocks[place].point_to(self._blocks[place].content)

    def _buffer_of(self, place: int) -> _Buffer | None:
        return next((each for each in self._buffers if each.holds == place), None)

    def _fetch(self, place: int, buffer: _Buffer) -> None:
        buffer.holds = place
        buffer.fill(self._blocks[place].content, self._copies)


class _Buffer:
    """Memory on the device for one layer. holds: that layer's place; is_used: it computes."""

    def __init__(self, content: torch.Tensor) -> None:
        self.content = content
        self.holds: int | None = None
        self.is_used = False
        is_cuda = content.device.type == "cuda"
        self._filled, self._free = (_event() if is_cuda else None for _ in range(2))
        if self._free is not None:
            # The allocator may have handed out memory that what was queued before still uses.
            self._free.record()

    def fill(self, block: torch.Tensor, copies: Any) -> None:
        """Copy a layer's block here, as soon as what is computed with the last one has ended."""
        stream: AbstractContextManager[Any] = nullcontext()
        if copies is not None:
            stream = torch.cuda.stream(copies)
            copies.wait_event(self._free)
            self.content.record_stream(copies)  # not freed before the copy has ended
        with stream:
            self.content[: block.numel()].copy_(block, non_blocking=True)
            if self._filled is not None:
                self._filled.record()

    def wait_until_filled(self) -> None:
        """Have what is computed next wait for the copy; this process does not wait."""
        if self._filled is not None:
            torch.cuda.current_stream().wait_event(self._filled)

    def give_back(self) -> None:
        """Have the next copy wait for what has been computed so far."""
        self.is_used = False
        if self._free is not None:
            self._free.record()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


class _Part(NamedTuple):
    """A tensor of a 4-bit layer, and where it begins in the block of its layer."""

    layer: SeparableLinear4bit
    name: str
    begin: int
    size: int
    shape: torch.Size
    dtype: torch.dtype


class _Block:
    """The packed weights and constants of a layer, one after another in main memory."""

    def __init__(self, layer: torch.nn.Module, is_pinned: bool) -> None:
        self._parts: list[_Part] = []
        tensors, size = [], 0
        for part in separable_layers(layer):
            for name in ("weight", "constants"):
                tensor = getattr(part, name)
                tensors.append(tensor)
                self._parts.append(
                    _Part(part, name, size, tensor.nbytes, tensor.shape, tensor.dtype)
                )
                size += -(-tensor.nbytes // ALIGNED) * ALIGNED
        content = torch.zeros(size, dtype=torch.uint8)
        self.content = content.pin_memory() if is_pinned else content
        for view, tensor in zip(self._views(self.content), tensors, strict=True):
            view.copy_(tensor)
        self.point_to(self.content)  # what the layer had is freed

    def point_to(self, content: torch.Tensor) -> None:
        """Have the layer read from that copy of the block."""
        for part, view in zip(self._parts, self._views(content), strict=True):
            setattr(part.layer, part.name, view)

    def _views(self, content: torch.Tensor) -> Iterator[torch.Tensor]:
        for part in self._parts:
            yield content[part.begin : part.begin + part.size].view(part.dtype).view(part.shape)

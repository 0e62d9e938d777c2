"""Keys and values of rows that come and go: buffers with room for more rows and more tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

SPARE_COLUMNS = 64  # room for so many tokens more, whenever a buffer is allocated
SLOTS_STEP = 8  # from so many on, slots are allocated in multiples of this

LayerTensors = tuple[torch.Tensor, ...]  # keys and values


class SlotCache(Cache):  # type: ignore[misc]
    """The keys and values of N rows in buffers (slots, key heads, columns, size) of each layer.

    Row n is in slot n. In a layer all rows end before its column `end`, so a row of L tokens is in
    the columns end - L … end - 1, and what stands before it is padding, which the attention mask
    hides (its numbers are finite). A model sees the columns from the beginning of the longest row
    to `end`. A token is written in place; only a buffer without room is allocated anew, one layer
    after the other, so that little memory is taken twice. Where memory ends within that, some
    layers have moved and others have not: each knows its own `end`, so both are right.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_layer_class(self))
        self.layers: list[_SlotLayer]
        self.lengths: list[int] = []

    @property
    def width(self) -> int:
        """Tokens of the longest row: the columns that a model sees."""
        return max(self.lengths, default=0)

    def join(self, layers: Sequence[LayerTensors], lengths: Sequence[int]) -> None:
        """Add rows; after an error none of them. layers: of each layer keys and values (rows, key
        heads, W, size), padded on the left to the longest of them; empty where no row has a
        token."""
        first, width = len(self.lengths), max([self.width, *lengths])
        for number, tensors in enumerate(layers):
            if number == len(self.layers):
                self.layers.append(self.layer_class_to_replicate())
            self.layers[number].put(first, width, tensors)
        self.lengths += lengths

    def leave(self, rows: Sequence[int]) -> list[int]:
        """Remove rows; return which row each slot has now. The last rows move into the slots that
        become free."""
        gone = set(rows)
        count = len(self.lengths) - len(gone)
        order = list(range(count))
        movable = [row for row in range(count, len(self.lengths)) if row not in gone]
        for slot in sorted(row for row in gone if row < count):
            order[slot] = movable.pop()
            for layer in self.layers:
                layer.move(order[slot], slot)
        self.lengths = [self.lengths[row] for row in order]
        if not self.lengths:
            self.layers = []
        return order

    def advance(self) -> None:
        """Count the token that every row was given in every layer."""
        for layer in self.layers:
            layer.end += 1
        self.lengths = [length + 1 for length in self.lengths]


def _layer_class(cache: SlotCache) -> Any:
    """Return what makes a layer of that cache."""
    return lambda **_: _SlotLayer(cache)


class _SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers, and before which of their columns all rows end."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache
        self.end = 0
        self._buffers: list[torch.Tensor] = []

    def put(self, first: int, width: int, tensors: LayerTensors) -> None:
        """Write rows from slot `first` on; width: tokens of the longest row of all."""
        rows, own_width = first + len(tensors[0]), tensors[0].shape[2]
        self._make_room(rows, width, tensors, 0)
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            slots = buffer[first:rows]
            slots[:, :, : self.end - own_width] = 0
            slots[:, :, self.end - own_width : self.end] = tensor

    def move(self, source: int, target: int) -> None:
        for buffer in self._buffers:
            if source < len(buffer):  # otherwise a row without a token: nothing of it is seen
                buffer[target] = buffer[source]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write every row's token, (N, key heads, 1, size) each; return what the rows see."""
        rows, width = len(key_states), self.cache.width
        self._make_room(rows, width, (key_states, value_states), 1)
        keys, values = self._buffers
        keys[:rows, :, self.end] = key_states[:, :, 0]
        values[:rows, :, self.end] = value_states[:, :, 0]
        with_own = slice(self.end - width, self.end + 1)
        return keys[:rows, :, with_own], values[:rows, :, with_own]

    def get_seq_length(self) -> int:
        return self.cache.width

    def _make_room(self, rows: int, width: int, like: LayerTensors, more: int) -> None:
        """Have slots for so many rows, columns for so many tokens before `end`, and for some more
        after it. What there is moves into new buffers where it has to, without the columns that no
        row uses any more."""
        slots, columns = self._buffers[0].shape[::2] if self._buffers else (0, 0)
        if rows <= slots and width <= self.end and self.end + more <= columns:
            return
        seen = slice(self.end - self.cache.width, self.end)
        buffers = []
        for number, tensor in enumerate(like):
            _, heads, _, size = tensor.shape
            larger = tensor.new_zeros(_slots(rows), heads, width + SPARE_COLUMNS, size)
            if self._buffers:
                used = self._buffers[number][: len(self.cache.lengths), :, seen]
                larger[: len(used), :, width - used.shape[2] : width] = used
            buffers.append(larger)
        self._buffers, self.end = buffers, width
        self.dtype, self.device = like[0].dtype, like[0].device
        self.is_initialized = True


def _slots(rows: int) -> int:
    """How many slots are allocated for so many rows: no more for few, which may be long."""
    return rows if rows < SLOTS_STEP else -(-rows // SLOTS_STEP) * SLOTS_STEP

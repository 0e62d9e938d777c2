"""Keys and values of rows that come and go: buffers with room for more rows and more tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

SPARE_COLUMNS = 64  # room for so many tokens more, whenever a buffer is allocated
SLOTS_STEP = 8  # slots are allocated in multiples of this

LayerTensors = tuple[torch.Tensor, ...]  # keys and values


class SlotCache(Cache):  # type: ignore[misc]
    """The keys and values of N rows in buffers (slots, key heads, columns, size).

    Row n is in slot n. All rows end before column `end`, so a row of L tokens is in the columns
    end - L … end - 1, and what stands before it is padding, which the attention mask hides (its
    numbers are finite). A model sees the columns from the beginning of the longest row to `end`.
    A token is written in place; only a buffer without room is allocated anew.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_layer_class(self))
        self.layers: list[_SlotLayer]
        self.lengths: list[int] = []
        self.end = 0
        self._slots = 0
        self._columns = 0

    @property
    def width(self) -> int:
        """Tokens of the longest row: the columns that a model sees."""
        return max(self.lengths, default=0)

    def join(self, layers: Sequence[LayerTensors], lengths: Sequence[int]) -> None:
        """Add rows. layers: of each layer keys and values (rows, key heads, W, size), padded on the
        left to the longest of them; empty where no row has a token."""
        first = len(self.lengths)
        width = max(lengths, default=0)
        rows, end = first + len(lengths), max(self.end, width)
        if rows > self._slots or end > self._columns or end > self.end:
            self._allocate(rows, max(self.width, width))
        for number, tensors in enumerate(layers):
            if number == len(self.layers):
                self.layers.append(self.layer_class_to_replicate())
            self.layers[number].put(first, self.end - width, tensors)
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
            self.layers, self.end, self._slots, self._columns = [], 0, 0, 0
        return order

    def make_room(self) -> None:
        """Have a free column for the next token."""
        if self.end == self._columns:
            self._allocate(len(self.lengths), self.width)

    def advance(self) -> None:
        """Count the token that every row was given in every layer."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def visible_columns(self) -> slice:
        """Return the columns that a model sees before the next token."""
        return slice(self.end - self.width, self.end)

    def buffer_shape(self) -> tuple[int, int]:
        """Return (slots, columns)."""
        return self._slots, self._columns

    def _allocate(self, rows: int, width: int) -> None:
        """Allocate buffers for so many rows of so many tokens and some more, and move what there is
        into them, without the columns that no row uses any more."""
        seen = self.visible_columns()
        slots, columns = -(-rows // SLOTS_STEP) * SLOTS_STEP, width + SPARE_COLUMNS
        for layer in self.layers:
            layer.move_to(slots, columns, (len(self.lengths), seen), width)
        self._slots, self._columns, self.end = slots, columns, width


def _layer_class(cache: SlotCache) -> Any:
    """Return what makes a layer of that cache."""
    return lambda **_: _SlotLayer(cache)


class _SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def put(self, first: int, column: int, tensors: LayerTensors) -> None:
        """Write rows from slot `first` on, whose tokens begin at that column."""
        if not self.is_initialized:
            self.lazy_initialization(*tensors)
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            slots = buffer[first : first + len(tensor)]
            slots[:, :, :column] = 0
            slots[:, :, column : column + tensor.shape[2]] = tensor

    def move(self, source: int, target: int) -> None:
        for buffer in self._buffers:
            buffer[target] = buffer[source]

    def move_to(self, slots: int, columns: int, seen: tuple[int, slice], end: int) -> None:
        """Move into new buffers the rows and columns that are seen, so that they end before the
        column `end`."""
        rows, used = seen
        for number, buffer in enumerate(self._buffers):
            larger = buffer.new_zeros(slots, buffer.shape[1], columns, buffer.shape[3])
            larger[:rows, :, end - (used.stop - used.start) : end] = buffer[:rows, :, used]
            self._buffers[number] = larger

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        slots, columns = self.cache.buffer_shape()
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = [
            states.new_zeros(slots, states.shape[1], columns, states.shape[3])
            for states in (key_states, value_states)
        ]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write every row's token, (N, key heads, 1, size) each; return what the rows see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, seen = len(key_states), self.cache.visible_columns()
        keys, values = self._buffers
        keys[:rows, :, seen.stop] = key_states[:, :, 0]
        values[:rows, :, seen.stop] = value_states[:, :, 0]
        with_own = slice(seen.start, seen.stop + 1)
        return keys[:rows, :, with_own], values[:rows, :, with_own]

    def get_seq_length(self) -> int:
        return self.cache.width

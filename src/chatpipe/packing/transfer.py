"""Batches of rows on their way to the device: on a GPU, the next one while one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from accelerate.utils.operations import recursively_apply


class OneAhead(Iterator[Any]):
    """The items of `source`, each as `prepared` makes it. `fetch` makes the next one before it is
    asked for."""

    def __init__(self, source: Iterator[Any], prepared: Callable[[Any], Any]) -> None:
        self.source = source
        self._items = map(prepared, source)
        self._fetched: list[Any] = []

    def __next__(self) -> Any:
        return self._fetched.pop() if self._fetched else next(self._items)

    def fetch(self) -> None:
        """Make the next item now, if there is one."""
        if not self._fetched:
            self._fetched = list(islice(self._items, 1))


def on_device(batches: Any, device: torch.device) -> Any:
    """Return the batches (tensors within dictionaries and lists) with all tensors on the device.

    A GPU's are copied from pinned memory, and this process does not wait for that.
    """
    return recursively_apply(_on_device, batches, device)


def _on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

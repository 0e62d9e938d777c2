"""Streams and events of the fake GPU, and what they must wait for.

Nothing runs, so an order is known only by what was said: an operation of a stream has ended for
another one when that waits for an event which was recorded behind it. Memory that two streams
touch without such an event between them is an error, as it is on a GPU now and then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

Seen = Counter["FakeStream"]  # of each stream, how many of its operations have ended


class FakeStream:
    """torch.cuda.Stream."""

    def __init__(self, *_: object, **__: object) -> None:
        self.seen: Seen = Counter()

    def wait_event(self, event: FakeEvent) -> None:
        self.seen |= event.seen


class FakeEvent:
    """torch.cuda.Event; one that was not recorded is not waited for."""

    def __init__(self, *_: object, **__: object) -> None:
        self.seen: Seen = Counter()

    def record(self) -> None:
        self.seen = Counter(current_stream().seen)


_CURRENT = [FakeStream()]


def current_stream(*_: object) -> FakeStream:
    """torch.cuda.current_stream."""
    return _CURRENT[-1]


@contextmanager
def stream(chosen: FakeStream) -> Iterator[None]:
    """torch.cuda.stream."""
    _CURRENT.append(chosen)
    try:
        yield
    finally:
        _CURRENT.pop()


def pin_memory(tensor: torch.Tensor, *_: object) -> torch.Tensor:
    """torch.Tensor.pin_memory, which here notes it at the tensor."""
    tensor.in_pinned_memory = True  # type: ignore[attr-defined]
    return tensor


def is_pinned(tensor: torch.Tensor) -> bool:
    """Whether a copy of that to the GPU may run while the host goes on."""
    return getattr(tensor, "in_pinned_memory", False)


class Accesses:
    """Who touched which memory last, by storage."""

    def __init__(self) -> None:
        self._writes: dict[int, tuple[FakeStream, int]] = {}
        self._reads: dict[int, Seen] = {}

    def race(self, read: Iterable[torch.Tensor], written: Iterable[torch.Tensor]) -> str | None:
        """Note an operation of the current stream; return what it does not wait for."""
        mine = current_stream()
        mine.seen[mine] += 1
        now, fault = mine.seen[mine], None
        for tensor in read:
            key = tensor.untyped_storage()._cdata
            if self._is_written(key, mine):
                fault = "it reads what another stream is writing"
            self._reads.setdefault(key, Counter())[mine] = now
        for tensor in written:
            key = tensor.untyped_storage()._cdata
            reads = self._reads.pop(key, Counter())
            if self._is_written(key, mine) or any(mine.seen[s] < n for s, n in reads.items()):
                fault = "it writes what another stream is using"
            self._writes[key] = (mine, now)
        return fault

    def forget(self, key: int) -> None:
        """Its memory was freed."""
        self._writes.pop(key, None)
        self._reads.pop(key, None)

    def _is_written(self, key: int, mine: FakeStream) -> bool:
        writer, number = self._writes.get(key, (mine, 0))
        return mine.seen[writer] < number

"""Models of one base are asked the panel in the same batches: a few dozen rows take hardly longer
than a few."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.generation.ask import Answers, Ask, answered
from chatpipe.generation.capacity import AT_ONCE
from chatpipe.runtime import oom
from chatpipe.runtime.processes import processes
from chatpipe.store.artifact import Request
from chatpipe.store.store import store

LOG = logging.getLogger(__name__)
# Of the adapters that are in memory together, and then once more, stacked.
ADAPTERS_BYTES = 1 << 30

# What was asked in the company of another request, until it is asked for itself.
_PENDING_ANSWERS: dict[str, Answers] = {}


class AskBatch(Request):
    """An Ask, with others in its batches that are still to be asked; this process keeps their
    answers until their turn comes. What is made is what the Ask alone would make, but for ties that
    rounding breaks otherwise."""

    kind: ClassVar[str] = Ask.kind
    version: ClassVar[int] = Ask.version
    oom_hint: ClassVar[str] = Ask.oom_hint

    ask: Ask
    others: tuple[Ask, ...]

    @classmethod
    def of(cls, ask: Ask, others: Iterable[Ask]) -> AskBatch:
        """With all of the others that may join it, as far as there is memory for their adapters."""
        together = [ask]
        keys = {ask.key()}
        for other in others:
            key = other.key()
            if key not in keys and _may_join(other, ask) and _fit([*together, other]):
                keys.add(key)
                together.append(other)
        return cls(ask=ask, others=tuple(together[1:]))

    def key(self) -> str:
        return self.ask.key()

    def build(self, into: Path) -> dict[str, Any]:
        if self.key() not in _PENDING_ANSWERS:
            asks = self.together(processes())
            answers = self._answers(asks)
            _PENDING_ANSWERS.update(zip((ask.key() for ask in asks), answers, strict=False))
        return _PENDING_ANSWERS.pop(self.key()).written(into)

    def together(self, devices: int) -> list[Ask]:
        """Return the Ask and those of the others that are a batch on each device with it."""
        asks = [self.ask]
        for other in self.others:
            if sum(ask.most_questions for ask in [*asks, other]) <= devices * AT_ONCE:
                asks.append(other)
        return asks

    def _answers(self, asks: Sequence[Ask]) -> list[Answers]:
        """Those of all; of the Ask alone where its company is in the way."""
        if len(asks) > 1:
            try:
                return answered(asks)
            except Exception as error:
                LOG.warning(
                    "%s models could not be asked together, so one alone: %s", len(asks), error
                )
            oom.release_memory()
        return answered([self.ask])


def _may_join(other: Ask, ask: Ask) -> bool:
    """Whether it would be asked in the same way and of the same base, with an adapter that is here,
    and was not yet."""
    parts = ("base", "quantization", "generation")
    if any(getattr(other, part) != getattr(ask, part) for part in parts):
        return False
    adapter = other.adapter
    is_here = adapter is None or store().find(adapter.kind, adapter.key) == adapter
    return is_here and store().lookup(other) is None


def _fit(asks: Iterable[Ask]) -> bool:
    """Whether memory is sure to have room for their adapters."""
    return sum(ask.adapter.size() for ask in asks if ask.adapter) <= ADAPTERS_BYTES

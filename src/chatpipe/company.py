"""Models of one base are asked the panel in the same batches: a few dozen rows take hardly longer
than a few."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.artifacts import Request, store
from chatpipe.completion import AT_ONCE
from chatpipe.generation import Answers, Ask, answered

MODELS_AT_ONCE = 8  # whose adapters are in memory together

# What was asked in the company of another request, until it is asked for itself.
_AHEAD: dict[str, Answers] = {}


class AskInCompany(Request):
    """An Ask, with others in its batches that are still to be asked; this process keeps their
    answers until their turn comes. What is made is what the Ask alone would make, but for ties that
    rounding breaks otherwise."""

    kind: ClassVar[str] = Ask.kind
    version: ClassVar[int] = Ask.version

    ask: Ask
    company: tuple[Ask, ...]

    @classmethod
    def of(cls, ask: Ask, others: Iterable[Ask]) -> AskInCompany:
        """With as many of the others as may join it."""
        own = ask.key()
        joining = (other for other in others if _may_join(other, ask) and other.key() != own)
        missing = (other for other in joining if store().held(other) is None)
        most = min(MODELS_AT_ONCE, AT_ONCE // len(ask.questions()))
        return cls(ask=ask, company=tuple(islice(missing, max(0, most - 1))))

    def build(self, into: Path) -> dict[str, Any]:
        key = self.ask.key()
        if key not in _AHEAD:
            asks = {ask.key(): ask for ask in (self.ask, *self.company)}
            _AHEAD.update(zip(asks, answered(list(asks.values())), strict=True))
        return _AHEAD.pop(key).written(into)


def _may_join(other: Ask, ask: Ask) -> bool:
    same = ("base", "quantization", "generation")
    return ask.generation.temperature == 0 and all(
        getattr(other, part) == getattr(ask, part) for part in same
    )

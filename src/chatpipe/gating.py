"""The gate: new figures against the last accepted ones.

A figure has regressed where it is worse than the accepted one by more than the tolerance
(relative) and lies above the accepted figure's 95 % interval. What passes is not accepted by
itself, or many small steps would lead anywhere; `chatpipe accept` moves the mark. Every measure
is a perplexity: lower is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatpipe import history
from chatpipe.history import Entry, Figure
from chatpipe.report.formatting import interval, perplexity


@dataclass(frozen=True)
class Regression:
    """A figure that is worse than the accepted one, and both of them."""

    now: Entry
    accepted: Entry

    def __str__(self) -> str:
        now, before = self.now, self.accepted
        change = now.value / before.value - 1
        moved = " (the held-out rows changed since)" if rows_changed(now, before) else ""
        return (
            f"{now.variant} on {now.heldout}: {now.metric} {perplexity(now.value)} is "
            f"{change:.1%} worse than the accepted {perplexity(before.value)}"
            f"{interval(before.low, before.high)}{moved}; if that is right, "
            f"`chatpipe accept {now.variant}`."
        )


@dataclass(frozen=True)
class Verdict:
    """What the gate found; first: figures that were accepted because none was before them."""

    regressions: list[Regression]
    first: list[Entry]


def record(entries: Sequence[Entry], tolerance: float) -> Verdict:
    """Append the checked figures to the history and compare them with the accepted ones."""
    accepted = history.last_accepted(history.read())
    first = history.accepted(entry for entry in entries if entry.figure not in accepted)
    if entries:
        history.append([*entries, *first])
    return Verdict(regressions(entries, accepted, tolerance), first)


def regressions(
    entries: Sequence[Entry], accepted: Mapping[Figure, Entry], tolerance: float
) -> list[Regression]:
    """The figures that are worse than the accepted ones; tolerance: relative, 0.02 is 2 %."""
    pairs = [(entry, accepted[entry.figure]) for entry in entries if entry.figure in accepted]
    return [Regression(now, before) for now, before in pairs if _worse(now, before, tolerance)]


def rows_changed(now: Entry, before: Entry) -> bool:
    """Whether the two figures are of different held-out rows."""
    return now.heldout_digest != before.heldout_digest


def _worse(now: Entry, before: Entry, tolerance: float) -> bool:
    """Written so that a figure that is not a number counts as worse."""
    bound = max(before.value * (1 + tolerance), before.high or before.value)
    return not now.value <= bound

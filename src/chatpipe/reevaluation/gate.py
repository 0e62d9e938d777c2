"""The gate: new figures against the last accepted ones.

A figure has regressed where it is worse than the accepted one by more than the tolerance
(relative) and lies above the accepted figure's 95 % interval. What passes is not accepted by
itself, or many small changes would add up; `chatpipe accept` accepts the new figures. Every measure
is a perplexity: lower is better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chatpipe.reevaluation import history
from chatpipe.reevaluation.history import Entry, Figure
from chatpipe.report.formatting import interval, perplexity


@dataclass(frozen=True)
class Regression:
    """A figure that is worse than the accepted one, and both of them."""

    now: Entry
    accepted: Entry

    def __str__(self) -> str:
        now, accepted = self.now, self.accepted
        change = now.value / accepted.value - 1
        changed = changes(now, accepted)
        moved = f" (measured otherwise: {', '.join(changed)})" if changed else ""
        return (
            f"{now.variant} on {now.heldout}: {now.metric} {perplexity(now.value)} is "
            f"{change:.1%} worse than the accepted {perplexity(accepted.value)}"
            f"{interval(accepted.low, accepted.high)}{moved}; if that is right, "
            f"`chatpipe accept {now.variant}`."
        )


@dataclass(frozen=True)
class Verdict:
    """The result of the gate.

    Attributes:
        regressions: Figures that are worse than the accepted ones.
        first: Figures that were accepted because there were none before them.
        unlike: A sentence for each set that was measured differently when it was accepted.
        entries: All figures of the check.
    """

    regressions: list[Regression]
    first: list[Entry]
    unlike: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


def record(entries: Sequence[Entry], tolerance: float) -> Verdict:
    """Append the checked figures to the history and compare them with the accepted ones."""
    accepted = history.last_accepted(history.read())
    first = history.accepted(entry for entry in entries if entry.figure not in accepted)
    if entries:
        history.append([*entries, *first])
    worse = regressions(entries, accepted, tolerance)
    return Verdict(worse, first, _unlike(entries, accepted), list(entries))


def regressions(
    entries: Sequence[Entry], accepted: Mapping[Figure, Entry], tolerance: float
) -> list[Regression]:
    """Return the figures that are worse than the accepted ones; a tolerance of 0.02 is 2 %."""
    pairs = [(entry, accepted[entry.figure]) for entry in entries if entry.figure in accepted]
    return [Regression(now, before) for now, before in pairs if _worse(now, before, tolerance)]


def changes(now: Entry, before: Entry) -> list[str]:
    """Return how the measurement changed between two figures: held-out rows, settings.

    If it changed, the figures cannot be compared directly.
    """
    changed = []
    if now.heldout_digest != before.heldout_digest:
        changed.append("other held-out rows")
    if now.rows != before.rows:
        changed.append(f"{now.rows:,} rows scored, {before.rows:,} before")
    if now.settings and before.settings and now.settings != before.settings:
        new, old = json.loads(now.settings), json.loads(before.settings)
        keys = [key for key in {**old, **new} if new.get(key) != old.get(key)]
        changed += [f"{key} {new.get(key)}, {old.get(key)} before" for key in keys]
    return changed


def _unlike(entries: Sequence[Entry], accepted: Mapping[Figure, Entry]) -> list[str]:
    """Return one sentence per held-out set whose measurement changed."""
    sentences = [
        f"{entry.variant} on {entry.heldout}: compared with a figure that was measured otherwise "
        f"({', '.join(changed)}); `chatpipe accept {entry.variant}` makes the new one the mark."
        for entry in entries
        if entry.figure in accepted and (changed := changes(entry, accepted[entry.figure]))
    ]
    return list(dict.fromkeys(sentences))


def _worse(now: Entry, before: Entry, tolerance: float) -> bool:
    """Return whether a figure is worse than the accepted one; NaN counts as worse."""
    bound = max(before.value * (1 + tolerance), before.high or before.value)
    return not now.value <= bound

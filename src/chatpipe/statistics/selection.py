"""The best configuration, chosen on one part of the held-out rows and reported on the other.

The lowest of many figures is partly luck. Rows that did not choose it do not share that luck; the
seeds do, so the figure of a choice among configurations with few seeds stays a little too good.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from chatpipe.statistics.noise import NoiseModel
from chatpipe.statistics.paired_rows import Ids, PairedRows
from chatpipe.statistics.verdicts import Comparison, compare


@dataclass(frozen=True)
class Selection:
    """The configuration with the lowest figure on the validation rows.

    Attributes:
        chosen: Its name.
        validation_value: Its figure on the rows that chose it: too good, the more so the more
            configurations there were.
        value, low, high: Its figure on the other rows, and the 95 % interval.
        validation_rows, rows: How many rows each part has.
        comparisons: Of the chosen one with each other, on the other rows.
    """

    chosen: str
    validation_value: float
    value: float
    low: float
    high: float
    validation_rows: int
    rows: int
    comparisons: list[Comparison]


def validation_mask(ids: Ids, share: float = 0.5) -> NDArray[np.bool_]:
    """Return which rows are the validation part: decided by each row's id alone."""
    return np.array([_fraction(row) < share for row in ids], np.bool_)


def select_best(rows: PairedRows, share: float = 0.5) -> Selection:
    """Choose on a share of the rows, and report on the others.

    ValueError where one of the parts is empty.
    """
    mask = validation_mask(rows.ids, share)
    validation, rest = NoiseModel.of(rows.subset(mask)), NoiseModel.of(rows.subset(~mask))
    best = int(np.argmin(validation.values))
    chosen = rows.configurations[best]
    low, high = rest.intervals()
    others = [name for name in rows.configurations if name != chosen]
    return Selection(
        chosen=chosen,
        validation_value=float(validation.values[best]),
        value=float(rest.values[best]),
        low=float(low[best]),
        high=float(high[best]),
        validation_rows=validation.rows,
        rows=rest.rows,
        comparisons=compare(rest, [(chosen, other) for other in others]),
    )


def _fraction(row: str) -> float:
    digest = blake2b(row.encode(), digest_size=8, person=b"validation").digest()
    return float(int.from_bytes(digest, "big") / 2**64)

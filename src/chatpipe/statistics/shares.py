"""Intervals of shares."""

from __future__ import annotations

import math

Z = 1.959963984540054  # the 97.5th percentile of the normal distribution


def wilson(share: float, items: int) -> tuple[float, float]:
    """Return the ends of the 95 % score interval of a share of so many items.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference". It also has
    a width where all items are alike, as none of 20 may be up to 16 % of many.
    """
    spread = Z**2 / items
    half = Z * math.sqrt(share * (1 - share) / items + spread / (4 * items))
    middle = share + spread / 2
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))

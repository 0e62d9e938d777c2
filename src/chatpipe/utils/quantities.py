"""Bytes, durations and counts as text."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal


def in_bytes(size: float) -> str:
    """1.5 GiB, 84 MiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:,.0f} {name}"
    return f"{size:.0f} B"


def in_time(seconds: float) -> str:
    """2 min, 8 h 20 min, 3.5 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{seconds / 86400:,.1f} days"


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """1 step, 1,200 steps; plural: where it is not the noun and s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def in_per_cent(share: float, digits: int = 0, sign: str = "") -> str:
    """62.5 as 63 or, with one digit, 62.5: the percents of a share, a half rounded away from zero
    as readers do it."""
    percents = Decimal(repr(float(share))).scaleb(2)  # as it is written: 0.285 is 28.5
    rounded = percents.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{rounded if rounded else abs(rounded):{sign},}"


def rows_are(number: int) -> str:
    """1 row is, 1,200 rows are."""
    return f"{count_of(number, 'row')} {'is' if number == 1 else 'are'}"


def in_count(rows: int, exact: bool) -> str:
    """12,345, or "about 12,345" where it was not counted."""
    return f"{rows:,}" if exact else f"about {rows:,}"

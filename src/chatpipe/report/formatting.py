"""Formats numbers for all renderings: digits, signs and units."""

from __future__ import annotations

import math
from datetime import datetime

from chatpipe.report.schema import FEW_ROWS, BitsPerByte, Difference, JsonScalar, ScoreCell
from chatpipe.utils.quantities import in_per_cent
from chatpipe.utils.texts import counted, join, translate

MISSING = "—"
SEEN = "†"
LEFT_OUT = "‡"
MINUS = "\u2212"
MINUTE, HOUR = 60, 3600  # seconds
FIGURES = {"tokens": "perplexity", "bytes": "bits per byte"}  # of configurations, by unit


def device(name: str | None) -> str:
    """Return a device's name; that of a CPU ends with its threads."""
    if name is None:
        return MISSING
    cpu, _, threads = name.removesuffix(" threads").rpartition(", ")
    if not (cpu and threads.isdigit()):
        return name
    return translate("{cpu}, {threads} threads", cpu=cpu, threads=threads)


def fixed(value: float, digits: int, sign: str = "") -> str:
    """Format a number with true minus signs; what is rounded to 0 has no sign.

    sign: "+" for a sign before positive numbers too.
    """
    text = f"{value:{sign}z,.{digits}f}"
    is_zero = not any(digit in text for digit in "123456789")
    return text.removeprefix("+") if is_zero else text.replace("-", MINUS)


def perplexity(value: float, sign: str = "") -> str:
    """Format a perplexity with about four significant digits: 2.236, 14.91, 1,204."""
    if not math.isfinite(value):
        return f"{sign}∞" if value > 0 else MISSING
    rounded = abs(float(f"{value:.4g}"))
    exponent = math.floor(math.log10(rounded)) if rounded else 0
    return fixed(value, max(0, min(3, 3 - exponent)), sign)


def score(cell: ScoreCell | None) -> str:
    """Format a figure: value, †n for n rows seen in training, ‡n for n rows left out, interval."""
    if cell is None:
        return MISSING
    rows = few_rows(cell.rows)
    return f"{perplexity(cell.value)}{marks(cell)}{rows}{interval(cell.low, cell.high)}"


def seen_mark(cell: ScoreCell | None) -> str:
    """Return †n where n of the rows are in the model's training data, †? where nobody knows, else
    nothing."""
    if cell and cell.seen_in_training is None:
        return f" {SEEN}?"
    return f" {SEEN}{cell.seen_in_training:,}" if cell and cell.seen_in_training else ""


def left_out_mark(rows: int) -> str:
    """Return ‡n where n rows were left out, else nothing."""
    return f" {LEFT_OUT}{rows:,}" if rows else ""


def few_rows(rows: int | None) -> str:
    """Return the number of rows if there are fewer than FEW_ROWS, else nothing."""
    if not rows or rows >= FEW_ROWS:
        return ""
    return translate(" ({parts})", parts=counted(rows, "row"))


def marks(cell: ScoreCell | None) -> str:
    """Return both marks of a figure."""
    return seen_mark(cell) + (left_out_mark(cell.left_out) if cell else "")


def difference(diff: Difference | None, cell: ScoreCell | None = None) -> str:
    """Format a difference with its interval: -1.204 [-1.511, -0.922], with true minus signs.

    cell: the model's own figure, whose †n the difference inherits. ‡n: rows that only one of the
    two models was scored on, which the difference leaves out.
    """
    if diff is None:
        return MISSING
    text = f"{signed(diff.value)}{seen_mark(cell)}{left_out_mark(diff.left_out)}"
    text += few_rows(diff.rows)
    if diff.low is None or diff.high is None:
        return text
    return f"{text} [{signed(diff.low)}, {signed(diff.high)}]"


def bits_per_byte(cell: ScoreCell | None) -> str:
    """Format a figure's bits per byte with its marks and interval."""
    bits = cell.bits_per_byte if cell else None
    if cell is None or bits is None:
        return MISSING
    rows = few_rows(cell.rows)
    return f"{perplexity(bits.value)}{marks(cell)}{rows}{interval(bits.low, bits.high)}"


def bits_difference(diff: Difference | None, cell: ScoreCell | None = None) -> str:
    """Format a difference in bits per byte, as `difference` does."""
    if diff is None or diff.bits_per_byte is None:
        return MISSING
    bits = diff.bits_per_byte
    return difference(
        diff.model_copy(update={"value": bits.value, "low": bits.low, "high": bits.high}), cell
    )


def gain(bits: BitsPerByte, left_out: int) -> str:
    """A signed gain in bits per byte with its interval; ‡n: rows that it leaves out."""
    text = f"{signed(bits.value)}{left_out_mark(left_out)}"
    if bits.low is None or bits.high is None:
        return text
    return f"{text} [{signed(bits.low)}, {signed(bits.high)}]"


def share(value: float | None) -> str:
    """A share in percent: 57 %."""
    return MISSING if value is None else f"{in_per_cent(value)} %".replace("-", MINUS)


def figure(value: float, unit: str) -> str:
    """Format a configuration's figure: nats per token as a perplexity, or bits per byte."""
    return perplexity(math.exp(value)) if unit == "tokens" else fixed(value, 3)


def amount(lower_by: float, unit: str) -> str:
    """Format by how much a configuration's figure is lower, with its unit."""
    return plain(lower_by, unit) + (" %" if unit == "tokens" else "")


def plain(lower_by: float, unit: str) -> str:
    """The same without the unit: per cent of a perplexity by which exp(−x) is lower, or bits."""
    per_cent_lower = -100 * math.expm1(-lower_by)
    return fixed(per_cent_lower, 1) if unit == "tokens" else fixed(lower_by, 3)


def signed_amount(value: float, unit: str) -> str:
    """Format by how much a configuration's figure is higher, with its sign and unit."""
    if unit == "tokens":
        return f"{fixed(100 * math.expm1(value), 1, '+')} %"
    return fixed(value, 3, "+")


def per_cent(part: float) -> str:
    """Format a share from 0 to 1: 57 %."""
    return f"{in_per_cent(part)} %"


def signed(value: float) -> str:
    """Format a value with its sign, also a positive one."""
    return perplexity(value, "+")


def interval(low: float | None, high: float | None) -> str:
    """Format a 95 % interval, to follow its value; nothing if none was computed."""
    return "" if low is None or high is None else f" [{perplexity(low)}, {perplexity(high)}]"


def moment(created: str) -> str:
    """Format an ISO 8601 time as 2025-06-01 12:00 UTC; other text is unchanged."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return created


def duration(seconds: float | None) -> str:
    """Format seconds as 8.4 s, 12 min 05 s or 8 h 20 min."""
    if seconds is None:
        return MISSING
    if round(seconds, 1) < MINUTE:
        return translate("{seconds} s", seconds=f"{seconds:.1f}")
    if round(seconds) < HOUR:
        minutes, rest = divmod(round(seconds), MINUTE)
        return translate("{minutes} min {seconds} s", minutes=minutes, seconds=f"{rest:02d}")
    hours, minutes = divmod(round(seconds / MINUTE), 60)
    return translate("{hours} h {minutes} min", hours=f"{hours:,}", minutes=f"{minutes:02d}")


def about_time(seconds: float) -> str:
    """Format seconds in words of a sentence: 45 s, 2 min, 8 h 20 min, 3.5 days."""
    minutes = round(seconds / MINUTE)
    if seconds < 90:
        return translate("{seconds} s", seconds=f"{seconds:.0f}")
    if minutes < 60:
        return translate("{minutes} min", minutes=minutes)
    if minutes < 48 * 60:
        return translate("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)
    return translate("{days} days", days=f"{seconds / 86400:,.1f}")


def count(value: float | None) -> str:
    """Format a whole number with separators."""
    return MISSING if value is None else f"{value:,.0f}"


def gibibytes(value: int | None) -> str:
    """Format bytes as GiB."""
    return MISSING if value is None else f"{value / 2**30:,.2f} GiB"


def counts(reasons: dict[str, int]) -> str:
    """Format counts by reason, largest first: 'duplicate 12, empty output 3'."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return join([f"{translate(reason)} {number:,}" for reason, number in ordered if number]) or (
        MISSING
    )


def setting(value: JsonScalar) -> str:
    """Format a setting as in YAML; — if it is not set."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)

"""Pieces of inline SVG: boxes, axes, curves, legends; colours are classes of the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from chatpipe.utils.visible_text import visible

CHAR = 9.2  # width of one character at the charts' 13 px, on the wide side
DASHES = ("", "8 4", "3 3", "10 3 3 3")
COLOURS = 6  # classes s0 … s5 in the page's style

Point = tuple[float, float]  # in the units of the axes


@dataclass(frozen=True)
class Box:
    """A rectangle in user units, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Plot:
    """A box with the ticks of its axes; the outer ticks are the box's edges."""

    box: Box
    across: Sequence[float]
    up: Sequence[float]

    def x(self, value: float) -> float:
        """Return the value's distance from the left, in user units."""
        first, last = self.across[0], self.across[-1]
        return self.box.x + self.box.width * (value - first) / (last - first)

    def y(self, value: float) -> float:
        """Return the value's distance from the top, in user units."""
        first, last = self.up[0], self.up[-1]
        return self.box.y + self.box.height * (last - value) / (last - first)


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that enclose low and high."""
    span = high - low if high > low else max(abs(high), 1.0)
    rough = span / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * n for n in (1, 2, 2.5, 5, 10) if unit * n >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(step * n, 10) for n in range(first, last + 1)]


def axes(plot: Plot, across: str, up: str) -> list[str]:
    """Return both axes with their ticks and labels."""
    box = plot.box
    bottom, right = box.y + box.height, box.x + box.width
    body = []
    for value in plot.up:
        y = plot.y(value)
        body.append(line((box.x, y), (right, y), "grid"))
        body.append(text(box.x - 8, y + 4, f"{value:g}", "tick end"))
    for value in plot.across:
        x = plot.x(value)
        body.append(line((x, bottom), (x, bottom + 5), "axis"))
        body.append(text(x, bottom + 20, f"{value:g}", "tick"))
    body.append(line((box.x, bottom), (right, bottom), "axis"))
    body.append(text(box.x + box.width / 2, bottom + 40, across, "label"))
    turn = f' transform="rotate(-90 16 {box.y + box.height / 2:.0f})"'
    middle = box.y + box.height / 2
    return [*body, text(16, middle, up, "label", turn)]


def curve(plot: Plot, index: int, points: Sequence[Point]) -> str:
    """Return a series as a line, in the colour and dash of its index."""
    coordinates = [f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in points]
    if len(coordinates) == 1:  # a line through one point is invisible
        return dot(plot, index, points[0])
    return f'<polyline {_stroke(index)} points="{" ".join(coordinates)}"/>'


def dot(plot: Plot, index: int, point: Point) -> str:
    """Return one point, in the colour of its series."""
    x, y = plot.x(point[0]), plot.y(point[1])
    return f'<circle class="dot s{index % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def legend(names: Sequence[str], box: Box) -> tuple[list[str], float]:
    """Return an entry for each curve, in columns of equal width, and the chart's height."""
    entry_width = 56 + CHAR * max(map(len, names))
    columns = max(1, int(box.width // entry_width))
    body, y = [], 0.0
    for index, name in enumerate(names):
        x, y = (
            box.x + entry_width * (index % columns),
            box.y + box.height + 66 + 22 * (index // columns),
        )
        body.append(f'<polyline {_stroke(index)} points="{x:.1f},{y:.1f} {x + 34:.1f},{y:.1f}"/>')
        body.append(text(x + 42, y + 4, name, "key"))
    return body, y + 14


def _stroke(index: int) -> str:
    """Return colour and dash: curves must be distinguishable without colour."""
    dash = DASHES[index % len(DASHES)]
    return f'class="curve s{index % COLOURS}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def svg(
    key: str,
    size: tuple[float, float],
    description_parts: tuple[str, str],
    body: Sequence[str],
    kind: str = "chart",
) -> str:
    """Return the whole chart, with a title and a description for screen readers; kind: its class in
    the page's style."""
    width, height = math.ceil(size[0]), math.ceil(size[1])
    title, description = (escape(visible(part)) for part in description_parts)
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{title}</title><desc id="{key}-desc">{description}</desc>'
        f"{''.join(body)}</svg>"
    )


def text(x: float, y: float, content: str, kind: str, more: str = "") -> str:
    """Return escaped text at a point; kind: its class in the page's style."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{more}>{escape(visible(content))}</text>'


def line(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    """Return a straight line, in user units."""
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def rect(box: Box, kind: str, more: str = "") -> str:
    """Return a rounded rectangle."""
    geometry = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<rect class="{kind}" {geometry} rx="5"{more}/>'

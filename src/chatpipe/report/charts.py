"""The report's charts as inline SVG; colours are classes, so the page's theme sets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from chatpipe.report import formatting as show
from chatpipe.report.schema import LossPoint, Model, Report, ScoreCell

CHAR = 9.2  # width of one character at the charts' 13 px, on the wide side
MOST_POINTS = 240
STRONGEST = 0.7  # opacity of a colour under text: keeps the contrast above 4.5 in both themes
TIMES = " \u00d7 "
DASHES = ("", "8 4", "3 3", "10 3 3 3")
COLOURS = 6  # classes s0 … s5 in the page's style


def heatmap(report: Report) -> str:
    """Perplexity of every model on every set, coloured by its ratio to the base; or nothing."""
    if not report.scores:
        return ""
    left = 20 + CHAR * max(len(model.name) for model in report.models)
    headers = [_lines(heldout.name) for heldout in report.heldout]
    wide = max(128.0, 16 + CHAR * max(len(line) for lines in headers for line in lines))
    top, high = 12.0 + 18 * max(map(len, headers)), 58.0
    body = [
        _text(left + wide * (i + 0.5), top - 10 - 18 * (len(lines) - 1 - j), line, "head")
        for i, lines in enumerate(headers)
        for j, line in enumerate(lines)
    ]
    for row, model in enumerate(report.models):
        y = top + high * row
        body.append(_text(left - 12, y + high / 2 + 4, model.name, "head end"))
        for column, heldout in enumerate(report.heldout):
            box = _Box(left + wide * column + 2, y + 2, wide - 4, high - 4)
            body.append(_cell(report, box, report.score(model.name, heldout.name)))
    size = (left + wide * len(report.heldout) + 2, top + high * len(report.models) + 2)
    title = "Perplexity of every model on every held-out set"
    return _svg("transfer", size, (title, _transfer_words(report)), body)


def loss_curves(report: Report) -> str:
    """Training loss of every variant over epochs, on shared axes; or nothing."""
    curves = [(model.name, _thin(model.loss_history)) for model in report.variants]
    curves = [(name, points) for name, points in curves if points]
    if not curves:
        return ""
    points = [point for _, found in curves for point in found]
    plot = _Plot(
        _Box(64, 14, 620, 280),
        _ticks(0.0, max(point.epoch for point in points)),
        _ticks(min(p.loss for p in points), max(p.loss for p in points)),
    )
    body = _axes(plot)
    for index, (_, found) in enumerate(curves):
        body.append(_curve(plot, index, found))
    legend, height = _legend([name for name, _ in curves], plot.box)
    words = "; ".join(
        f"{name} from {found[0].loss:.2f} to {found[-1].loss:.2f}" for name, found in curves
    )
    title = "Training loss of every variant over epochs"
    return _svg("loss", (700, height), (title, words), body + legend)


@dataclass(frozen=True)
class _Box:
    """A rectangle in user units, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class _Plot:
    """A box with the ticks of its axes; the outer ticks are the box's edges."""

    box: _Box
    epochs: Sequence[float]
    losses: Sequence[float]

    def x(self, epoch: float) -> float:
        first, last = self.epochs[0], self.epochs[-1]
        return self.box.x + self.box.width * (epoch - first) / (last - first)

    def y(self, loss: float) -> float:
        first, last = self.losses[0], self.losses[-1]
        return self.box.y + self.box.height * (last - loss) / (last - first)


def _cell(report: Report, box: _Box, cell: ScoreCell | None) -> str:
    middle = box.x + box.width / 2
    if cell is None:
        return _rect(box, "empty") + _text(middle, box.y + 32, show.MISSING, "value")
    ratio = _ratio(report, cell)
    shade = 0.0 if ratio is None else _shade(ratio)
    kind = "better" if shade < 0 else "worse"
    colour = _rect(box, kind, f' fill-opacity="{abs(shade):.2f}"')
    frame = _rect(box, "own" if cell.own else "frame")
    value = f"{show.perplexity(cell.value)}{show.seen_mark(cell)}"
    times = "" if ratio is None else f"{ratio:.2f}{TIMES}base"
    under = "base" if _model(report, cell).is_base else times
    words = _text(middle, box.y + 25, value, "value") + _text(middle, box.y + 43, under, "note")
    return colour + frame + words


def _model(report: Report, cell: ScoreCell) -> Model:
    return next(model for model in report.models if model.name == cell.model)


def _ratio(report: Report, cell: ScoreCell) -> float | None:
    base = report.base_of(_model(report, cell))
    reference = report.score(base.name, cell.heldout) if base else None
    return cell.value / reference.value if reference and reference.value > 0 else None


def _shade(ratio: float) -> float:
    """From -STRONGEST (a quarter of the base's or less) to STRONGEST (four times or more)."""
    if not math.isfinite(ratio) or ratio <= 0:
        return STRONGEST
    return STRONGEST * max(-1.0, min(1.0, math.log2(ratio) / 2))


def _transfer_words(report: Report) -> str:
    cells = (cell for cell in report.scores if cell.metric == "perplexity")
    return "; ".join(f"{c.model} on {c.heldout}: {show.perplexity(c.value)}" for c in cells)


def _thin(points: Sequence[LossPoint]) -> list[LossPoint]:
    """At most MOST_POINTS points, each the mean of consecutive ones: a page, not a log."""
    finite = [point for point in points if math.isfinite(point.loss)]
    each = max(1, math.ceil(len(finite) / MOST_POINTS))
    return [_mean(finite[i : i + each]) for i in range(0, len(finite), each)]


def _mean(points: Sequence[LossPoint]) -> LossPoint:
    number = len(points)
    return LossPoint(
        step=points[-1].step,
        epoch=sum(point.epoch for point in points) / number,
        loss=sum(point.loss for point in points) / number,
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five, that enclose low and high."""
    span = high - low if high > low else max(abs(high), 1.0)
    rough = span / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * n for n in (1, 2, 2.5, 5, 10) if unit * n >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(step * n, 10) for n in range(first, last + 1)]


def _axes(plot: _Plot) -> list[str]:
    box = plot.box
    bottom, right = box.y + box.height, box.x + box.width
    body = []
    for loss in plot.losses:
        y = plot.y(loss)
        body.append(_line((box.x, y), (right, y), "grid"))
        body.append(_text(box.x - 8, y + 4, f"{loss:g}", "tick end"))
    for epoch in plot.epochs:
        x = plot.x(epoch)
        body.append(_line((x, bottom), (x, bottom + 5), "axis"))
        body.append(_text(x, bottom + 20, f"{epoch:g}", "tick"))
    body.append(_line((box.x, bottom), (right, bottom), "axis"))
    body.append(_text(box.x + box.width / 2, bottom + 40, "epochs", "label"))
    turn = f' transform="rotate(-90 16 {box.y + box.height / 2:.0f})"'
    middle = box.y + box.height / 2
    return [*body, _text(16, middle, "loss, nats per scored token", "label", turn)]


def _curve(plot: _Plot, index: int, points: Sequence[LossPoint]) -> str:
    places = [f"{plot.x(point.epoch):.1f},{plot.y(point.loss):.1f}" for point in points]
    if len(places) == 1:  # a line through one point is nothing to see
        x, y = places[0].split(",")
        return f'<circle class="dot s{index % COLOURS}" cx="{x}" cy="{y}" r="4"/>'
    return f'<polyline {_stroke(index)} points="{" ".join(places)}"/>'


def _legend(names: Sequence[str], box: _Box) -> tuple[list[str], float]:
    """One entry a curve, in columns as wide as the longest name; and the chart's height."""
    wide = 56 + CHAR * max(map(len, names))
    columns = max(1, int(box.width // wide))
    body, y = [], 0.0
    for index, name in enumerate(names):
        x, y = box.x + wide * (index % columns), box.y + box.height + 66 + 22 * (index // columns)
        body.append(f'<polyline {_stroke(index)} points="{x:.1f},{y:.1f} {x + 34:.1f},{y:.1f}"/>')
        body.append(_text(x + 42, y + 4, name, "key"))
    return body, y + 14


def _stroke(index: int) -> str:
    """Colour and dash together, so that no curve is told by colour alone."""
    dash = DASHES[index % len(DASHES)]
    return f'class="curve s{index % COLOURS}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _lines(name: str) -> list[str]:
    """A union's name over several lines."""
    first, *others = name.split(" + ")
    return [first, *(f"+ {other}" for other in others)]


def _svg(key: str, size: tuple[float, float], words: tuple[str, str], body: Sequence[str]) -> str:
    width, height = math.ceil(size[0]), math.ceil(size[1])
    title, description = map(escape, words)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{title}</title><desc id="{key}-desc">{description}</desc>'
        f"{''.join(body)}</svg>"
    )


def _text(x: float, y: float, words: str, kind: str, more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{more}>{escape(words)}</text>'


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _rect(box: _Box, kind: str, more: str = "") -> str:
    place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<rect class="{kind}" {place} rx="5"{more}/>'

"""The report's charts as inline SVG; colours are classes, so the page's theme sets them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from chatpipe.report import drawing as draw
from chatpipe.report import formatting as show
from chatpipe.report.schema import LossPoint, Model, Report, ScoreCell
from chatpipe.utils.texts import translate

MOST_POINTS = 240
MOST_TALL = 12  # rows of a heatmap; of more, each is one line of text
STRONGEST = 0.7  # opacity of a colour under text: keeps the contrast above 4.5 in both themes


def heatmap(report: Report, links: Mapping[str, str] | None = None) -> str:
    """Return a heatmap of perplexity, models by sets, coloured by the ratio to the base.

    links: Name of a model -> the id of the page's element that its cells link to.
    """
    if not report.scores:
        return ""
    left = 20 + draw.CHAR * max(len(model.name) for model in report.models)
    headers = [_split_name(heldout.name) for heldout in report.heldout]
    column_width = max(
        128.0, 16 + draw.CHAR * max(len(line) for lines in headers for line in lines)
    )
    top = 12.0 + 18 * max(map(len, headers))
    row_height = 58.0 if len(report.models) <= MOST_TALL else 30.0
    body = [
        draw.text(
            left + column_width * (i + 0.5), top - 10 - 18 * (len(lines) - 1 - j), line, "head"
        )
        for i, lines in enumerate(headers)
        for j, line in enumerate(lines)
    ]
    for row, model in enumerate(report.models):
        y = top + row_height * row
        body.append(draw.text(left - 12, y + row_height / 2 + 4, model.name, "head end"))
        for column, heldout in enumerate(report.heldout):
            box = draw.Box(
                left + column_width * column + 2, y + 2, column_width - 4, row_height - 4
            )
            cell = _cell(report, box, report.score(model.name, heldout.name))
            anchor = (links or {}).get(model.name)
            body.append(f'<a href="#{escape(anchor)}">{cell}</a>' if anchor else cell)
    size = (
        left + column_width * len(report.heldout) + 2,
        top + row_height * len(report.models) + 2,
    )
    title = translate("Perplexity of every model on every held-out set")
    return draw.svg("transfer", size, (title, _describe_transfer(report)), body)


def loss_curves(report: Report) -> str:
    """Return the training loss of every variant over epochs, on shared axes."""
    curves = [(model.name, thin(model.loss_history)) for model in report.variants]
    curves = [(name, points) for name, points in curves if points]
    if not curves:
        return ""
    points = [point for _, history in curves for point in history]
    plot = draw.Plot(
        draw.Box(64, 14, 620, 280),
        draw.ticks(0.0, max(point.epoch for point in points)),
        draw.ticks(min(p.loss for p in points), max(p.loss for p in points)),
    )
    body = draw.axes(plot, translate("epochs"), translate("loss, nats per scored token"))
    for index, (_, history) in enumerate(curves):
        body.append(draw.curve(plot, index, [(point.epoch, point.loss) for point in history]))
    legend, height = draw.legend([name for name, _ in curves], plot.box)
    description = translate("; ").join(
        translate(
            "{name} from {first} to {last}",
            name=name,
            first=f"{history[0].loss:.2f}",
            last=f"{history[-1].loss:.2f}",
        )
        for name, history in curves
    )
    title = translate("Training loss of every variant over epochs")
    return draw.svg("loss", (700, height), (title, description), body + legend)


def _cell(report: Report, box: draw.Box, cell: ScoreCell | None) -> str:
    middle, center = box.x + box.width / 2, box.y + box.height / 2
    if cell is None:
        return draw.rect(box, "empty") + draw.text(middle, center + 5, show.MISSING, "value")
    ratio = _ratio(report, cell)
    shade = 0.0 if ratio is None else _shade(ratio)
    kind = "better" if shade < 0 else "worse"
    colour = draw.rect(box, kind, f' fill-opacity="{abs(shade):.2f}"')
    frame = draw.rect(box, "own" if cell.own else "frame")
    value = f"{show.perplexity(cell.value)}{show.marks(cell)}"
    if box.height < 40:
        return colour + frame + draw.text(middle, center + 5, value, "value")
    times = "" if ratio is None else translate("{ratio} × base", ratio=f"{ratio:.2f}")
    under = translate("base") if _model(report, cell).is_base else times
    labels = draw.text(middle, box.y + 25, value, "value") + draw.text(
        middle, box.y + 43, under, "note"
    )
    return colour + frame + labels


def _model(report: Report, cell: ScoreCell) -> Model:
    return next(model for model in report.models if model.name == cell.model)


def _ratio(report: Report, cell: ScoreCell) -> float | None:
    base = report.base_of(_model(report, cell))
    reference = report.score(base.name, cell.heldout) if base else None
    return cell.value / reference.value if reference and reference.value > 0 else None


def _shade(ratio: float) -> float:
    """Return the colour's strength: -STRONGEST at a quarter of the base's figure or less,
    STRONGEST at four times or more."""
    if not math.isfinite(ratio) or ratio <= 0:
        return STRONGEST
    return STRONGEST * max(-1.0, min(1.0, math.log2(ratio) / 2))


def _describe_transfer(report: Report) -> str:
    cells = (cell for cell in report.scores if cell.metric == "perplexity")
    return translate("; ").join(
        translate(
            "{model} on {heldout}: {figure}",
            model=cell.model,
            heldout=cell.heldout,
            figure=show.perplexity(cell.value),
        )
        for cell in cells
    )


def thin(points: Sequence[LossPoint], most: int = MOST_POINTS) -> list[LossPoint]:
    """Return at most so many points, each the mean of consecutive ones."""
    finite = [point for point in points if math.isfinite(point.loss)]
    each = max(1, math.ceil(len(finite) / most))
    return [_mean(finite[i : i + each]) for i in range(0, len(finite), each)]


def _mean(points: Sequence[LossPoint]) -> LossPoint:
    number = len(points)
    return LossPoint(
        step=points[-1].step,
        epoch=sum(point.epoch for point in points) / number,
        loss=sum(point.loss for point in points) / number,
    )


def _split_name(name: str) -> list[str]:
    """Split a union's name into lines."""
    first, *others = name.split(" + ")
    return [first, *(f"+ {other}" for other in others)]

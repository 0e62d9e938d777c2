"""Charts of a study of many cells: cost against quality, learning curves, small plots of loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chatpipe.report import drawing as draw
from chatpipe.report import formatting as show
from chatpipe.report.charts import thin
from chatpipe.report.schema import (
    CostFront,
    LearningCurve,
    LossPoint,
    RankedVariant,
    Report,
)
from chatpipe.utils.texts import translate

FRONT_LABELS = {
    "wall_s": "minutes of a training",
    "trained_tokens": "thousand tokens of a training",
}
FRONT_SCALES = {"wall_s": 60.0, "trained_tokens": 1000.0}
SMALL = draw.Box(48, 10, 192, 110)
SMALL_SIZE = (250.0, 150.0)
MOST_POINTS = 60  # of a curve in a small plot


def front_chart(report: Report, front: CostFront) -> str:
    """Return every configuration's figure over its cost; a line joins the Pareto front, and a
    number is the place in the ranking."""
    ranking = [item for item in report.ranking if item.heldout == front.heldout]
    points = {
        item.configuration: (_cost(report, item, front), _shown(item.value, item.unit))
        for item in ranking
    }
    costs, figures = zip(*points.values(), strict=True)
    plot = draw.Plot(
        draw.Box(64, 14, 560, 240),
        _cost_ticks(costs),
        draw.ticks(min(figures), max(figures)),
    )
    figure_name = translate(show.FIGURES[ranking[0].unit])
    body = draw.axes(plot, translate(FRONT_LABELS[front.cost]), figure_name)
    joined = [points[name] for name in front.configurations]
    if len(joined) > 1:
        body.append(draw.curve(plot, 0, joined))
    for place, (name, point) in enumerate(points.items(), 1):
        on_front = name in front.configurations
        body.append(draw.dot(plot, 0 if on_front else 5, point))
        if on_front:
            at = plot.x(point[0]), plot.y(point[1])
            body.append(draw.text(at[0], at[1] - 9, str(place), "head"))
    described = translate("; ").join(
        translate(
            "{name}: {figure} at {cost}",
            name=name,
            figure=show.perplexity(figure),
            cost=f"{cost:.1f}",
        )
        for name, (cost, figure) in points.items()
    )
    title = translate("Cost and quality on {heldout}", heldout=front.heldout)
    key = f"front-{[each.heldout for each in report.fronts].index(front.heldout)}"
    return draw.svg(key, (640, 310), (title, described), body)


def _cost_ticks(costs: Sequence[float]) -> list[float]:
    """From nothing, or, where all costs are alike, from near the least, so that they are apart."""
    least, most = min(costs), max(costs)
    return draw.ticks(0.0 if least < most / 2 else least, most)


def curve_chart(curve: LearningCurve, key: str) -> str:
    """Return a learning curve's points with their intervals, the fitted line, and, dashed, what it
    gives at twice the most rows."""
    measured = [(math.log2(point.rows), _shown(point.value, curve.unit)) for point in curve.points]
    ends = [_shown(end, curve.unit) for p in curve.points for end in (p.low, p.high)]
    first, last = measured[0][0], measured[-1][0]
    ahead = curve.at_double if curve.shape == "line" else None
    right = last + 1 if ahead else last
    if ahead:
        ends += [_shown(end, curve.unit) for end in (ahead.low, ahead.high)]
    plot = draw.Plot(SMALL, [first - 0.2, right + 0.2], draw.ticks(min(ends), max(ends)))
    body = _small_axes(plot, [(math.log2(p.rows), f"{p.rows:,.0f}") for p in curve.points])
    for point, (x, _) in zip(curve.points, measured, strict=True):
        body.append(_bar(plot, x, _shown(point.low, curve.unit), _shown(point.high, curve.unit)))
    if curve.shape == "line":
        mean_x = sum(x for x, _ in measured) / len(measured)
        mean_y = sum(point.value for point in curve.points) / len(curve.points)
        if ahead:  # through the figure that is expected there
            mean_x, mean_y = last + 1, ahead.value
        line = [
            (x, _shown(mean_y + curve.per_doubling.value * (x - mean_x), curve.unit))
            for x in (first, last, right)
        ]
        body += [draw.curve(plot, 0, line[:2]), draw.curve(plot, 1, line[1:])]
    if ahead:
        body.append(
            _bar(plot, right, _shown(ahead.low, curve.unit), _shown(ahead.high, curve.unit))
        )
    body += [draw.dot(plot, 0, point) for point in measured]
    described = translate("; ").join(
        translate("{rows} rows: {figure}", rows=f"{2**x:,.0f}", figure=show.perplexity(y))
        for x, y in measured
    )
    return draw.svg(key, SMALL_SIZE, (curve.configuration, described), body, "chart small")


def loss_charts(report: Report) -> dict[str, str]:
    """Return, by configuration, the training loss of all its seeds, on the same axes for all; of
    those for which one was recorded."""
    histories = {
        model.name: history
        for model in report.variants
        if (history := thin(model.loss_history, MOST_POINTS))
    }
    points = [point for history in histories.values() for point in history]
    if not points:
        return {}
    losses = [point.loss for point in points]
    plot = draw.Plot(
        SMALL,
        [0.0, max(point.epoch for point in points)],
        draw.ticks(min(losses), max(losses)),
    )
    drawn = {}
    for place, each in enumerate(report.configurations):
        of_seeds = [histories[name] for name in each.models if name in histories]
        if of_seeds:
            drawn[each.name] = _loss_chart(each.name, of_seeds, plot, f"loss-{place}")
    return drawn


def _loss_chart(
    name: str, histories: Sequence[Sequence[LossPoint]], plot: draw.Plot, key: str
) -> str:
    last = plot.across[-1]
    body = _small_axes(plot, [(0.0, "0"), (last, translate("{epochs} epochs", epochs=f"{last:g}"))])
    for index, history in enumerate(histories):
        body.append(draw.curve(plot, index, [(point.epoch, point.loss) for point in history]))
    described = translate("; ").join(
        translate("from {first} to {last}", first=f"{h[0].loss:.2f}", last=f"{h[-1].loss:.2f}")
        for h in histories
    )
    return draw.svg(key, SMALL_SIZE, (name, described), body, "chart small")


def _cost(report: Report, item: RankedVariant, front: CostFront) -> float:
    configuration = report.configuration(item.configuration)
    cost = getattr(configuration.cost, front.cost) if configuration else None
    return (cost or 0.0) / FRONT_SCALES[front.cost]  # a base costs no training


def _shown(value: float, unit: str) -> float:
    return math.exp(value) if unit == "tokens" else value


def _small_axes(plot: draw.Plot, across: Sequence[tuple[float, str]]) -> list[str]:
    """The outer ticks upwards, and these labels across."""
    box = plot.box
    bottom, right = box.y + box.height, box.x + box.width
    body = [draw.line((box.x, plot.y(v)), (right, plot.y(v)), "grid") for v in plot.up]
    for value in (plot.up[0], plot.up[-1]):
        body.append(draw.text(box.x - 6, plot.y(value) + 4, f"{value:g}", "tick end"))
    body.append(draw.line((box.x, bottom), (right, bottom), "axis"))
    for value, label in across:
        body.append(draw.text(plot.x(value), bottom + 18, label, "tick"))
    return body


def _bar(plot: draw.Plot, x: float, low: float, high: float) -> str:
    return draw.line((plot.x(x), plot.y(low)), (plot.x(x), plot.y(high)), "bar")

"""What a page shows of each configuration when it is unfolded: settings, and every figure with the
artifact that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from chatpipe.report import formatting as show
from chatpipe.report.schema import NOT_KNOWN, JsonScalar, Manifest, Model, Report
from chatpipe.utils.texts import join, translate

STORE = "../../store"  # as seen from reports/NAME in chatpipe's directory
KEY_LENGTH = 12


class CellFigure(NamedTuple):
    """A line of a cell: a figure of a model, and the manifest that it comes from."""

    model: str
    figure: str
    value: str
    manifest: str  # a link
    artifact: str


@dataclass(frozen=True)
class Cell:
    """A configuration, or a base.

    Attributes:
        anchor: Its id on the page.
        names: Under which the page's tables name it: its own, and those of its models.
        settings: Those that vary between configurations.
    """

    anchor: str
    name: str
    names: tuple[str, ...]
    settings: dict[str, JsonScalar]
    figures: tuple[CellFigure, ...]


def cells(report: Report) -> list[Cell]:
    """Return the bases and the configurations; nothing where no artifact is recorded."""
    if not report.manifests:
        return []
    grouped = {name for each in report.configurations for name in each.models}
    alone = [model for model in report.models if model.name not in grouped]
    groups: list[tuple[str, list[str], dict[str, JsonScalar]]] = [
        *((model.name, [model.name], {}) for model in alone),
        *((each.name, each.models, each.settings) for each in report.configurations),
    ]
    models = {model.name: model for model in report.models}
    return [
        Cell(
            anchor=f"cell-{place}",
            name=name,
            names=tuple(dict.fromkeys([name, *members])),
            settings=settings,
            figures=tuple(f for member in members for f in _figures(report, models[member])),
        )
        for place, (name, members, settings) in enumerate(groups)
    ]


def anchors(listed: list[Cell]) -> dict[str, str]:
    """Name of a configuration or model → the id of its cell."""
    return {name: cell.anchor for cell in listed for name in cell.names}


def _figures(report: Report, model: Model) -> Iterator[CellFigure]:
    """The model's training, then its figures on each data set."""
    trained = report.manifest(model.name, "fine-tune")
    if trained:
        cost = join([show.duration(model.wall_s), show.gibibytes(model.peak_memory_bytes)])
        yield _line(model, translate("Training"), cost, trained)
    imported = report.manifest(model.name, "import")
    if imported:
        yield _line(model, translate("Training"), translate(NOT_KNOWN), imported)
    rows = report.manifest(model.name, "merge")
    if rows:
        yield _line(model, translate("Training rows"), show.count(model.rows_trained), rows)
    for heldout in report.heldout:
        scored = report.manifest(model.name, "score", heldout.name)
        if scored:
            value = show.score(report.score(model.name, heldout.name))
            figure = translate("Perplexity on {heldout}", heldout=heldout.name)
            yield _line(model, figure, value, scored)
    generated = report.manifest(model.name, "generate")
    if generated:
        number = sum(answer.model == model.name for answer in report.answers)
        yield _line(model, translate("Answers"), show.count(number), generated)


def _line(model: Model, figure: str, value: str, manifest: Manifest) -> CellFigure:
    link = f"{STORE}/{manifest.path}"
    artifact = f"{manifest.kind}/{manifest.key[:KEY_LENGTH]}"
    return CellFigure(model.name, figure, value, link, artifact)

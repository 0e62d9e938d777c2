"""What a report says of variants that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from chatpipe.report.formatting import MISSING, SEEN
from chatpipe.report.schema import NOT_KNOWN, Difference, Model, Report
from chatpipe.utils.texts import translate

UNKNOWN = (
    "what its training took, its loss, and whether the rows that it is scored on are among its "
    "training rows is not known here ({mark})."
)
SILENT = "{model} was trained elsewhere, on what is not known: " + UNKNOWN
TOLD = "{model} was trained elsewhere, as its importer says on {rows}: " + UNKNOWN


def elsewhere_sentences(report: Report) -> Iterator[str]:
    """Say of each variant that was trained elsewhere what is not known of it."""
    for model in report.elsewhere():
        rows = model.elsewhere.trained_on if model.elsewhere else None
        text = SILENT if rows is None else TOLD
        yield translate(text, model=model.name, rows=rows, mark=f"{SEEN}?")


def of_training(text: str, model: Model) -> str:
    """Return a figure of the model's training; of one that was trained elsewhere, that it is not
    known."""
    return translate(NOT_KNOWN) if text == MISSING and model.elsewhere else text


def differences_elsewhere(report: Report) -> list[Difference]:
    """Return the differences from their bases of the variants that were trained elsewhere."""
    names = {model.name for model in report.elsewhere()}
    return [difference for difference in report.differences if difference.model in names]

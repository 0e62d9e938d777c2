"""Marks beside the figures of configurations: what else differs, and what a model may have seen."""

from __future__ import annotations

from chatpipe.report.formatting import SEEN, seen_mark
from chatpipe.report.schema import NOT_KNOWN, JsonScalar, Report

OTHERWISE_USED = "§"
# Settings that are used with a model, and not in its training alone. A comparison of variants that
# differ in one is of the same replies, and is of training and setting together.
USED_WITH_MODEL = ("base_model", "prompt_template")


def section(key: str, sections: tuple[str, ...] = USED_WITH_MODEL) -> str:
    """Return the section of a key whose section counts as one setting, else the key."""
    name = key.partition(".")[0]
    return name if name in sections else key


def used_otherwise(report: Report, *configurations: str) -> list[str]:
    """Return which of USED_WITH_MODEL differ between these configurations or models.

    A base was measured as its variants are, and has no settings of its own.
    """
    values = [_settings(report, name) for name in configurations]
    keys = dict.fromkeys(key for of in values for key in of)
    differing = {section(key) for key in keys if len(_known_values(values, key)) > 1}
    return [name for name in USED_WITH_MODEL if name in differing]


def otherwise_used_mark(report: Report, first: str, second: str) -> str:
    """Return § where the two are used with other settings, else nothing."""
    return f" {OTHERWISE_USED}" if used_otherwise(report, first, second) else ""


def seen_in_training_mark(report: Report, heldout: str, *configurations: str) -> str:
    """Return †? where it is not known of one of them whether it has seen the rows, †n where one has
    seen n, else nothing."""
    cells = [
        cell
        for name in configurations
        for model in _models(report, name)
        if (cell := report.score(model, heldout))
    ]
    unknown = any(cell.seen_in_training is None for cell in cells)
    most = max(cells, key=lambda cell: cell.seen_in_training or 0, default=None)
    return f" {SEEN}?" if unknown else seen_mark(most)


def _models(report: Report, name: str) -> list[str]:
    configuration = report.configuration(name)
    return configuration.models if configuration else [name]


def _settings(report: Report, name: str) -> dict[str, JsonScalar]:
    return report.settings.get(_models(report, name)[0], {})


def _known_values(settings: list[dict[str, JsonScalar]], key: str) -> set[str]:
    """Return the different values of those that have settings."""
    return {repr(of.get(key)) for of in settings if of and of.get(key) != NOT_KNOWN}

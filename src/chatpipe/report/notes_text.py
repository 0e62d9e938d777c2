"""Notes of a report in its language: they are sentences of the run, stored in English."""

from __future__ import annotations

import re

from chatpipe.utils.texts import CHINESE, join, language, translate

# Templates of the table, of whole notes; then those of parts of them.
NOTES = (
    "data set {name}: format auto is {format}, by its columns.",
    "contamination: {counts} share {words} words in a row with the training rows of {names}; they "
    "are scored like the others.",
    "{pair}: not compared, because {reason}.",
    "{base} is not measured in its own chat template: {reason}",
    "This report is without {left} of {total} variants, which the same command trains next.",
)
PARTS = (
    "{sharing} of {rows} held-out rows of {name}",
    "{sharing} of {rows} prompts of the panel",
)
AS_RECORDED = "As the run recorded it: {note}"


def translated_note(note: str) -> str:
    """Return the note; where the table has no words for it, as the run recorded it."""
    if language() == "en":
        return note
    for template in NOTES:
        if values := _values(template, note):
            if "counts" in values:
                values["counts"] = join([_part(part) for part in values["counts"].split(", ")])
            return CHINESE[template].format(**values)
    return translate(AS_RECORDED, note=note)


def _part(text: str) -> str:
    for template in PARTS:
        if values := _values(template, text):
            return CHINESE[template].format(**values)
    return text


def _values(template: str, text: str) -> dict[str, str] | None:
    """Return what stands in the places of the template; None for another text."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(template))
    match = re.fullmatch(pattern, text)
    return match.groupdict() if match else None

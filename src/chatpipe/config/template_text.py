"""Placeholders in the text of a prompt template, and what stands around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

PLACEHOLDERS = ("instruction", "input")  # that a template needs
SYSTEM = "system"  # one that it may have
# {{word}} is the text {word}; {word} is a placeholder, and so is what begins like a known one, as
# {input!r}; any other brace is text, as in JSON. The model card has the same expression.
_NAME = r"(\s*[^\W\d]\w*\s*|\s*(?:instruction|input|system)\b[^{}]*)"
_BRACED = re.compile(rf"\{{\{{{_NAME}\}}\}}|\{{{_NAME}\}}")
_JINJA = re.compile(r"\{[%#]")


@dataclass(frozen=True)
class Part:
    """Text of the template as it stands, or the name of a placeholder."""

    text: str
    is_placeholder: bool = False


@dataclass(frozen=True)
class Segment:
    """Text of a prompt, and whether it is a row's (else it is the template's)."""

    text: str
    from_row: bool


@lru_cache(maxsize=64)
def parse(text: str) -> tuple[Part, ...]:
    """The parts of a template in their order; unknown placeholders are among them."""
    parts: list[Part] = []
    literal, end = "", 0
    for match in _BRACED.finditer(text):
        doubled, name = match.groups()
        literal += text[end : match.start()]
        end = match.end()
        if name is None:
            literal += "{" + doubled + "}"
            continue
        parts += [Part(literal), Part(name, is_placeholder=True)]
        literal = ""
    parts.append(Part(literal + text[end:]))
    return tuple(part for part in parts if part.text)


def placeholders(text: str) -> list[str]:
    """Names of the placeholders in a template, in their order."""
    return [part.text for part in parse(text) if part.is_placeholder]


def faults_of(text: str) -> list[str]:
    """What is wrong with the braces of a template."""
    faults = [
        f"has the unknown placeholder {{{name}}}; known are {{instruction}}, {{input}} and "
        f"{{system}}, and {{{{{name}}}}} is the text {{{name}}}"
        for name in dict.fromkeys(placeholders(text))
        if name not in (*PLACEHOLDERS, SYSTEM)
    ]
    if _JINJA.search(text):
        faults.append(
            "has {% or {#, but is not a Jinja template; write the text with {instruction} and "
            "{input} in it"
        )
    return faults


def fill(text: str, values: Mapping[str, str]) -> list[Segment]:
    """The template with every placeholder replaced by its value, which is text and not read
    again."""
    segments = [
        Segment(values[part.text] if part.is_placeholder else part.text, part.is_placeholder)
        for part in parse(text)
    ]
    return [segment for segment in segments if segment.text]

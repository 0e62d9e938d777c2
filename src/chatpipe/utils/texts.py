"""Texts that people read, in English and Chinese: the English one is in the code and is the key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from chatpipe.utils.chinese_headings import HEADINGS
from chatpipe.utils.chinese_page import PAGE
from chatpipe.utils.chinese_rating import RATING
from chatpipe.utils.chinese_reasons import REASONS
from chatpipe.utils.chinese_report import REPORT

Language = Literal["en", "zh"]
CHINESE: dict[str, str] = {**REPORT, **HEADINGS, **REASONS, **PAGE, **RATING}
_LANGUAGE: ContextVar[Language] = ContextVar("language", default="en")


@contextmanager
def in_language(language: Language) -> Iterator[None]:
    """While this lasts, `translate` gives texts in that language."""
    token = _LANGUAGE.set(language)
    try:
        yield
    finally:
        _LANGUAGE.reset(token)


def language() -> Language:
    """Return the language of the texts here."""
    return _LANGUAGE.get()


def translate(english: str, /, **values: object) -> str:
    """Return the text with its values, in the language of the surrounding `in_language`. A text
    that the table lacks, such as a name, is as it is."""
    text = CHINESE.get(english, english) if language() == "zh" else english
    return text.format(**values) if values else text


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 row, 1,200 rows; plural: where it is not the noun and s."""
    if language() == "zh":
        return f"{number:,} {translate(noun)}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def join(parts: list[str]) -> str:
    """Return the parts of an enumeration, with commas."""
    return translate(", ").join(parts)


def html_language() -> str:
    """Return the language as a page names it."""
    return "zh-Hans" if language() == "zh" else "en"

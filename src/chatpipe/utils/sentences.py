"""Parts of sentences: lists of names, and another library's text shortened to stand in one."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 160  # characters


def listed(names: Sequence[str], shown: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more:,} more" if more > 0 else "")


def one_line(text: object) -> str:
    """Return a text, or an error's, without line breaks and repeated spaces."""
    return " ".join(str(text).split())


def shortened(text: str, most: int = LONGEST) -> str:
    """Return the text without its last full stop, cut after a sentence or, without one, a word."""
    if len(text) <= most:
        return text.rstrip(".")
    sentence, stop, _ = text[:most].rpartition(". ")
    if stop:
        return sentence.rstrip(".")
    words = text[:most].rpartition(" ")[0] or text[:most]
    return f"{words.rstrip(',;:')} …"

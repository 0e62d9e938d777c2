"""Another library's text, shortened so that it can stand in a sentence."""

from __future__ import annotations

LONGEST = 160  # characters


def shortened(text: str, most: int = LONGEST) -> str:
    """Return the text without its last full stop, cut after a sentence or, without one, a word."""
    if len(text) <= most:
        return text.rstrip(".")
    sentence, stop, _ = text[:most].rpartition(". ")
    if stop:
        return sentence.rstrip(".")
    words = text[:most].rpartition(" ")[0] or text[:most]
    return f"{words.rstrip(',;:')} …"

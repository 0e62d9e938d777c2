"""Text of models and rows, shown as what it is: nothing in it moves a cursor or turns a line."""

from __future__ import annotations

import re

# Control characters but tab and line breaks, what overrides the direction of the text around it,
# what has no width and no use in writing (the joiners have), tags, and halves of characters.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]|\r(?!\n)"
)

_LINE_BREAKS = re.compile("[\n\r\u2028\u2029]")
_NAMED = {"\n": "\\n", "\r": "\\r"}


def visible(text: str) -> str:
    """The text with every character that would hide or rule others written out, like \\x1b."""
    return _HIDDEN.sub(lambda match: _written_out(ord(match[0])), text)


def visible_line(text: str) -> str:
    """The visible text in one line: line breaks, as a file's name may hold, are written out too."""
    return _LINE_BREAKS.sub(
        lambda match: _NAMED.get(match[0]) or _written_out(ord(match[0])), visible(text)
    )


def _written_out(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

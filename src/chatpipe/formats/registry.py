"""The row formats by name. A format is a module of this package, and an entry here."""

from __future__ import annotations

from collections.abc import Collection

from chatpipe.formats import alpaca, completion, dialogues, messages, sharegpt
from chatpipe.formats.base import Format

# In this order they are tried where a file's columns decide.
FORMATS: dict[str, Format] = {
    "alpaca": alpaca.FORMAT,
    "dialogues": dialogues.FORMAT,
    "messages": messages.FORMAT,
    "sharegpt": sharegpt.FORMAT,
    "completion": completion.FORMAT,
}


def formats_with(names: Collection[str]) -> list[str]:
    """The formats whose required columns are all among these names."""
    return [
        name
        for name, row_format in FORMATS.items()
        if all(column in names for column in row_format.required())
    ]

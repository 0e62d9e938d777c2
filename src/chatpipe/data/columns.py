"""Which column of a file is which of a format's, and which look meant and are not used."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from chatpipe.data.first_row import first_row
from chatpipe.data.preferences import Layout, turns_layout
from chatpipe.errors import DataError
from chatpipe.formats.base import Format
from chatpipe.formats.registry import FORMATS, formats_with

INSTRUCTIONS = ("prompt", "question", "query", "problem", "human", "user")
OUTPUTS = ("completion", "response", "answer", "solution", "assistant", "chosen")
INPUTS = ("context", "passage", "document", "knowledge")
TURNS = ("conversations", "conversation", "turns", "dialogue")
# Columns of texts that a model would be meant to see, or settings of a row.
MEANT = frozenset(
    (
        *INSTRUCTIONS,
        *OUTPUTS,
        *INPUTS,
        *TURNS,
        *("system", "system_prompt", "history", "tools", "functions", "images", "rejected"),
        *("weight", "weights"),
        *(column for row_format in FORMATS.values() for column in row_format.columns),
    )
)
LONGEST_NAME = 60
# Written without quotes in YAML it is that text.
PLAIN_NAME = r"[^\W\d][\w.\-/]*( [\w.\-/]+)*"
MOST_NAMES = 20


class ColumnNames:
    """The names that a file has for the columns of a format. `rename` maps ours to the file's."""

    def __init__(self, path: Path, row_format: Format, rename: dict[str, str]) -> None:
        self._path = path
        unknown = [name for name in rename if name not in row_format.columns]
        if unknown:
            raise DataError(_unknown(path, unknown[0], list(row_format.columns), rename))
        self.theirs = {name: rename.get(name, name) for name in row_format.columns}
        columns = row_format.columns.items()
        self.types = {self.theirs[ours]: column.type for ours, column in columns}
        self.converted = {
            self.theirs[ours]: column.from_value for ours, column in columns if column.from_value
        }
        self.dotted = [name for name in self.types if "." in name]  # perhaps within another column
        # Columns of the file in which ours are.
        self.keys = {*self.types, *(name.partition(".")[0] for name in self.dotted)}
        self.required = [self.theirs[ours] for ours, column in columns if column.required]
        # What a variant names must be there, too.
        self.expected = [
            self.theirs[ours] for ours, column in columns if column.required or ours in rename
        ]

    def require(self, names: Sequence[str]) -> None:
        """DataError where the file, whose columns are `names`, lacks one that is expected, or has
        one of ours twice."""
        missing = [name for name in self.expected if name not in names]
        if missing:
            raise DataError(self._missing(missing, names))
        twice = [name for name in self.types if list(names).count(name) > 1]
        if twice:
            raise DataError(
                f"{self._path}: column {twice[0]} is there twice; rename or remove one of them."
            )

    def _missing(self, missing: Sequence[str], names: Sequence[str]) -> str:
        ours = {theirs: name for name, theirs in self.theirs.items()}
        lacking = " and ".join(map(printable, missing))
        columns = "column" if len(missing) == 1 else "columns"
        start = f"{self._path}: {columns} {lacking} missing; the file has {listed(names)}."
        if meant := formats_with(names):
            return f"{start} Say what the rows are, {_ways(Layout(meant[0], {}))}."
        if layout := turns_layout(first_row(self._path)) or layout_hint(names):
            return f"{start} Say which is which, {_ways(layout)}."
        likely = {name: guess for name in missing if (guess := _guess(name, ours[name], names))}
        hint = f" Did you mean {' and '.join(map(printable, likely.values()))}?" if likely else ""
        like = {ours[name]: likely.get(name, "NAME") for name in missing}
        return f"{start}{hint} Rename them, or say which is which, {_ways(Layout(None, like))}."

    def unused(self, names: Collection[str]) -> list[str]:
        """Those of the file's columns that look meant and are not used."""
        return sorted(
            name
            for name in names
            if name not in self.keys
            and (
                name.strip().lower() in MEANT
                or difflib.get_close_matches(name.strip().lower(), self.types, 1, 0.85)
            )
        )


def format_note(name: str, row_format: str) -> str:
    """A sentence about the format that `auto` stands for."""
    return f"data set {name}: format auto is {row_format}, by its columns."


def unused_warning(where: str, names: Sequence[str]) -> str:
    """A sentence about columns that look meant and are not used."""
    one = len(names) == 1
    return (
        f"{where}: column{'' if one else 's'} {listed(names)} {'is' if one else 'are'} not "
        "used; name a column under `columns` if it is one of ours, or put its text into one."
    )


def layout_hint(names: Collection[str]) -> Layout | None:
    """What to write in a variant for a file with those columns; None where nothing is known."""
    turns = next((name for name in TURNS if name in names), None)
    if turns:
        return Layout("sharegpt", {"conversations": turns})
    instruction, output = (
        next((name for name in (ours, *others) if name in names), None)
        for ours, others in (("instruction", INSTRUCTIONS), ("output", OUTPUTS))
    )
    context = next((name for name in INPUTS if name in names), None)
    if not instruction or not output:
        return None
    mapping = {"instruction": instruction, "input": context, "output": output}
    return Layout("alpaca", {ours: theirs for ours, theirs in mapping.items() if theirs})


def listed(names: Collection[str]) -> str:
    """The names, as many and as much of each as fit into a sentence."""
    shown = [
        printable(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…")
        for name in names
    ]
    more = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
    return ", ".join(shown[:MOST_NAMES]) + more if shown else "none"


def printable(name: str) -> str:
    """A name as it can stand in a sentence and in YAML: in quotes where it is no plain word, and
    what cannot be printed is escaped."""
    if re.fullmatch(PLAIN_NAME, name) and name.isprintable():
        return name
    return json.dumps(name, ensure_ascii=not name.isprintable())


def described_type(kind: pa.DataType) -> str:
    """An Arrow type as it can stand in a sentence."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if pa.types.is_string(kind.value_type):
            return "a list of texts"
        if pa.types.is_struct(kind.value_type):
            return "a list of turns (objects of a role and a text)"
        return f"a list of {kind.value_type}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return str(kind)


def _ways(layout: Layout) -> str:
    """How a variant and `finetune` are told these settings of a data set."""
    settings, options = [], []
    if layout.format:
        settings.append(f"format: {layout.format}")
        options.append(f"--format {layout.format}")
    if layout.columns:
        pairs = layout.columns.items()
        mapping = ", ".join(f"{ours}: {printable(theirs)}" for ours, theirs in pairs)
        settings.append(f"columns: {{{mapping}}}")
        options += [f"--columns {shlex.quote(f'{ours}={theirs}')}" for ours, theirs in pairs]
    return f"in a variant: {', '.join(settings)}; or to finetune: {' '.join(options)}"


def _guess(missing: str, ours: str, names: Sequence[str]) -> str | None:
    others = {"instruction": INSTRUCTIONS, "output": OUTPUTS, "input": INPUTS, "messages": TURNS}
    close = difflib.get_close_matches(missing, names, 1)
    usual = [name for name in others.get(ours, ()) if name in names]
    return next(iter([*close, *usual]), None)


def _unknown(path: Path, name: str, ours: list[str], rename: dict[str, str]) -> str:
    close = difflib.get_close_matches(name, ours, 1)
    hint = f"; did you mean {close[0]}?" if close else "."
    if rename[name] in ours:
        hint = f"; write it the other way round: columns: {{{rename[name]}: {name}}}."
    return f"{path}: columns: the format has no column {name}; it has {', '.join(ours)}{hint}"

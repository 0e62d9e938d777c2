"""What a row format is: the columns it needs, and how they become examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.formats.turn_settings import Turns, TurnSettings
from chatpipe.utils.text import has_byte, is_blank

EMPTY_OUTPUT = "empty output"
EMPTY_INSTRUCTION = "empty instruction"
NOT_TEXT = "not text"
UNDECODABLE = "undecodable"
RAGGED = "more or fewer cells than the header"
NUL = "NUL character"  # left by a disk that failed, by binary data, or by another encoding
KEY_TWICE = "a key is there twice"
READ_REASON = "read_reason"  # the column that says why a row could not be read
# Several flags of one row are one text, joined by this.
FLAGS_BETWEEN = "; "
# The turns before an example's own, oldest first, from a user's to an assistant's. A reply that is
# context for later turns, and is not scored itself, has the role UNSCORED.
UNSCORED = "assistant_unscored"
HISTORY = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


Texts: TypeAlias = "pa.ChunkedArray | pa.Array"


@dataclass(frozen=True)
class Column:
    """A column that a format reads, and its Arrow type. `from_value` turns what a file has there
    (as Python values) into values of that type, and gives None for what it cannot turn."""

    type: pa.DataType
    required: bool = True
    from_value: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Format:
    """A layout of rows. `normalize` takes a table of `columns` and gives that of `normalized`.

    `turns` is what a data set's `turns` is where it does not say. `unusable` are the reasons for
    which a row has nothing to train on, whatever the split. `as_turns` is the layout of files that
    have lists of turns in these columns. `version` is raised when the same rows become other
    examples, or others are dropped.
    """

    columns: dict[str, Column]
    normalize: Callable[[pa.Table, TurnSettings], pa.Table]
    turns: Turns = "all"
    unusable: frozenset[str] = frozenset()
    as_turns: Format | None = None
    version: int = 1

    def required(self) -> list[str]:
        """The columns without which a file is not of this format."""
        return [name for name, column in self.columns.items() if column.required]


def counted_reasons(counts: Mapping[str, int], details: Mapping[str, str] = {}) -> str:
    """Rows by reason, with what is known of each."""
    return ", ".join(
        f"{rows:,} {reason}" + (f" ({details[reason]})" if reason in details else "")
        for reason, rows in counts.items()
    )


def normalized(
    instruction: Texts,
    input_text: Texts,
    output: Texts,
    *,
    reason: Texts | None = None,
    flag: Texts | None = None,
    system: Texts | None = None,
    history: pa.Array | None = None,
    turns: pa.Array | None = None,
) -> pa.Table:
    """Return a table of examples: the texts as they are, with a reason beside every row that cannot
    be trained on. Text of which nothing can be seen is empty; as a system text it is null.

    Its columns: instruction, input, output, system, history, `reason` (why the row is dropped, or
    null), `flag` (what is odd about a row that is kept, or null). turns: how many turns each row
    has, a column of its own where the rows are conversations.
    """
    texts = [_filled(column) for column in (instruction, input_text, output)]
    blank = [is_blank(text) for text in texts]
    texts = [_emptied(text, empty) for text, empty in zip(texts, blank, strict=True)]
    rows = len(texts[0])
    fault = pa.nulls(rows, pa.string())
    for places, reason_of_it in ((blank[2], EMPTY_OUTPUT), (blank[0], EMPTY_INSTRUCTION)):
        if places.any():
            fault = pc.if_else(pa.array(places), reason_of_it, fault)
    if reason is not None:
        fault = pc.coalesce(reason, fault)
    nothing = pa.nulls(rows, pa.string())
    system = nothing if system is None else _null_if_blank(system)
    history = pa.nulls(rows, HISTORY) if history is None else history
    columns = {
        **dict(zip(("instruction", "input", "output"), texts, strict=True)),
        "system": system,
        "history": history,
        "reason": fault,
        "flag": _with_nul_flag(nothing if flag is None else flag, [*texts, system], history),
    }
    return pa.table(columns if turns is None else {**columns, "turns": turns})


def _with_nul_flag(flags: Texts, texts: Sequence[pa.Array], history: pa.Array) -> Texts:
    """The flags, with NUL added to those of rows that have this character in a text or turn."""
    holds_nul = np.zeros(len(flags), np.bool_)
    for column in texts:
        if has_byte(column, 0):
            matches = pc.fill_null(pc.match_substring(column, "\0"), False)
            holds_nul |= matches.to_numpy(zero_copy_only=False)
    turns = pc.list_flatten(history)
    contents = pc.struct_field(turns, "content")
    if has_byte(contents, 0):
        matches = pc.fill_null(pc.match_substring(contents, "\0"), False)
        rows_of_turns = pc.list_parent_indices(history).filter(matches)
        holds_nul[rows_of_turns.to_numpy()] = True
    if not holds_nul.any():
        return flags
    added = pc.coalesce(pc.binary_join_element_wise(flags, NUL, FLAGS_BETWEEN), NUL)
    return pc.if_else(pa.array(holds_nul), added, flags)


def _null_if_blank(texts: Texts) -> pa.Array:
    filled = _filled(texts)
    return pc.if_else(pa.array(is_blank(filled)), pa.scalar(None, pa.string()), filled)


def _filled(column: Texts) -> pa.Array:
    """The column as one array of strings, the empty one in place of null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return (pc.fill_null(column, "") if column.null_count else column).cast(pa.string())


def _emptied(texts: pa.Array, blank: npt.NDArray[np.bool_]) -> pa.Array:
    """The texts, with those that are blank made empty; most of these are already."""
    lengths = pc.binary_length(texts).to_numpy()
    return pc.if_else(pa.array(blank), "", texts) if lengths[blank].any() else texts

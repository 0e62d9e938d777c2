"""Dialogues: the first exchange is kept, as in the 2023 study; utterance 1 → input, 2 → output.

A row: {"dialog": ["Is it far?", "Ten minutes.", "Thanks."], "act": […], "emotion": […]}

With `turns: all` the utterances are turns of the user and the assistant, one after the other.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.formats import turn_reasons
from chatpipe.formats.base import Column, Format, normalized
from chatpipe.formats.conversations import conversations_normalized
from chatpipe.formats.turn_settings import TurnSettings
from chatpipe.formats.turns import SPOKEN, Turn, plain_turn

INSTRUCTION = "Continue the daily dialogue."
ONE_UTTERANCE = "dialogue with one utterance"
NO_UTTERANCE = "dialogue without an utterance"
FURTHER = "further utterances left out"


def _normalize(table: pa.Table, settings: TurnSettings) -> pa.Table:
    dialog = table["dialog"].combine_chunks()
    length = pc.fill_null(pc.list_value_length(dialog), 0)
    short = pc.if_else(pc.equal(length, 1), ONE_UTTERANCE, NO_UTTERANCE)
    reason = pc.if_else(pc.less(length, 2), short, pa.scalar(None, pa.string()))
    if settings.turns == "all":
        whole = conversations_normalized([_turns(row) for row in dialog.to_pylist()], settings)
        place = whole.column_names.index("reason")
        return whole.set_column(place, "reason", pc.coalesce(reason, whole["reason"]))
    flag = pc.if_else(pc.greater(length, 2), FURTHER, pa.scalar(None, pa.string()))
    instruction = pa.array([INSTRUCTION], pa.string()).take(pa.array([0] * len(dialog), pa.int8()))
    question, answer = _utterance(dialog, 0), _utterance(dialog, 1)
    turns = length.cast(pa.int64())
    return normalized(instruction, question, answer, reason=reason, flag=flag, turns=turns)


def _turns(utterances: list[str | None] | None) -> list[Turn | None]:
    """The utterances as turns, the user's first."""
    return [
        plain_turn(SPOKEN[place % 2], (text or "").strip())
        for place, text in enumerate(utterances or ())
    ]


def _utterance(dialog: pa.ListArray, index: int) -> pa.Array:
    """That utterance of every dialogue, null where there is none. The data sets put spaces around
    every word and sign: those at the ends are no text."""
    one = pc.list_slice(dialog, index, index + 1, return_fixed_size_list=True)
    # flatten() would leave out null lists, so they are made lists of one null first.
    padding = pa.scalar([None], one.type)
    return pc.utf8_trim_whitespace(pc.fill_null(one, padding).flatten())


FORMAT = Format(
    columns={"dialog": Column(pa.list_(pa.string()))},
    normalize=_normalize,
    turns="first",
    unusable=turn_reasons.UNUSABLE,
)

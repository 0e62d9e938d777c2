"""A whole conversation as one example: the system text, the earlier turns, the last exchange."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from chatpipe.formats import turn_reasons as reasons
from chatpipe.formats.base import FLAGS_BETWEEN, UNSCORED
from chatpipe.formats.turns import ASSISTANT, LEFT_OUT, SPOKEN, USER, Turn
from chatpipe.utils.text import has_visible

BETWEEN = "\n\n"  # of texts that are joined


class Example(NamedTuple):
    """What a conversation becomes. history: role and content, oldest first, from a user turn to the
    assistant turn before `instruction`; a reply of weight 0 has the role UNSCORED. reason: why it
    cannot be trained on; flag: what is left out of it, and what is odd about it."""

    instruction: str | None = None
    output: str | None = None
    system: str | None = None
    history: list[tuple[str, str]] | None = None
    reason: str | None = None
    flag: str | None = None


def whole_conversation(row: list[Turn | None], repeated_roles: str) -> Example:
    """Return the conversation from its first user turn to its last assistant turn."""
    turns = [turn for turn in row if turn is not None]
    flags = [reasons.NULL] if len(turns) < len(row) else []
    first = next((i for i, turn in enumerate(turns) if _kind(turn) != reasons.SYSTEM), len(turns))
    system = joined_texts([turn["content"] for turn in turns[:first]])
    if reason := _unfit(turns[first:], turns[:first]):
        return Example(reason=reason)
    turns = turns[first:]
    begin = next((i for i, turn in enumerate(turns) if turn["role"] == USER), len(turns))
    end = len(turns)
    while end > begin and turns[end - 1]["role"] == USER:
        end -= 1
    if begin == end:
        return Example(reason=_why_nothing([turn["role"] for turn in turns]))
    if begin:
        flags.append(reasons.LEADING)
    if end < len(turns):
        flags.append(reasons.LAST_USER)
    turns = turns[begin:end]
    if has_repeated_role(turns):
        if repeated_roles == "drop":
            return Example(reason=reasons.REPEATED_ROLE)
        flags.append(reasons.JOINED)
    return _example(turns, system, flags)


def joined_texts(texts: Sequence[str | None]) -> str | None:
    """Return the texts that are not blank, with a blank line between them; None without any."""
    return BETWEEN.join(text for text in texts if text and has_visible(text)) or None


def has_repeated_role(turns: Sequence[Turn]) -> bool:
    """Whether two turns in a row are both the user's, or both the assistant's."""
    return any(
        turn["role"] == following["role"] and turn["role"] in SPOKEN
        for turn, following in pairwise(turns)
    )


def _example(turns: Sequence[Turn], system: str | None, flags: list[str]) -> Example:
    replies = [turn for turn in turns if turn["role"] == ASSISTANT]
    exchanges = _joined(turns)
    while exchanges and exchanges[-1][0] == UNSCORED:
        exchanges = exchanges[:-2]
        flags.append(reasons.LAST_UNSCORED)
    if not exchanges:
        return Example(reason=reasons.ALL_WEIGHT_0)
    if any(role == UNSCORED for role, _ in exchanges):
        flags.append(reasons.UNSCORED)
    if any(turn["reasons"] for turn in replies):
        flags.append(reasons.REASONING)
    if any(turn["weight"] not in (None, 0, 1) for turn in replies):
        flags.append(reasons.WEIGHT)
    *history, (_, question), (_, answer) = exchanges
    return Example(
        question,
        answer,
        system,
        history or None,
        reason=None if all(text for _, text in history) else reasons.EMPTY_TURN,
        flag=FLAGS_BETWEEN.join(dict.fromkeys(flags)) or None,
    )


def _joined(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Role and text, those of one role in a row as one; blank text is empty. A reply of which a
    part has weight 0 is not scored."""
    groups = [[*group] for _, group in groupby(turns, key=lambda turn: str(turn["role"]))]
    return [
        (_role(group), joined_texts([turn["content"] for turn in group]) or "") for group in groups
    ]


def _role(turns: Sequence[Turn]) -> str:
    role = str(turns[0]["role"])
    is_unscored = role == ASSISTANT and any(turn["weight"] == 0 for turn in turns)
    return UNSCORED if is_unscored else role


def _unfit(turns: Sequence[Turn], system: Sequence[Turn]) -> str | None:
    """Why turns cannot be trained on, whatever their order; `system` are those at the beginning."""
    if any(_kind(turn) == reasons.TOOL or turn["calls"] for turn in turns):
        return reasons.ANY_TOOL
    if any(turn["media"] for turn in (*system, *turns)):
        return reasons.ANY_MEDIA
    if any(_kind(turn) == reasons.SYSTEM for turn in turns):
        return reasons.LATER_SYSTEM
    if any(turn["role"] not in SPOKEN for turn in turns):
        return reasons.ANY_OTHER
    return None


def _kind(turn: Turn) -> str | None:
    return LEFT_OUT.get(turn["role"])


def _why_nothing(roles: Sequence[str]) -> str:
    """Why no assistant turn follows a user turn, where there are no other turns."""
    if not roles:
        return reasons.NO_TURN
    if ASSISTANT not in roles:
        return reasons.NO_ASSISTANT
    return reasons.ASSISTANT_FIRST if USER in roles else reasons.NO_USER

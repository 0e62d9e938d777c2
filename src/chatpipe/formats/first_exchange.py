"""The first exchange of a conversation: a user turn, and the assistant's answer to it.

What else the conversation has is left out, and counted as a flag of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile, pairwise

from chatpipe.formats import turn_reasons as reasons
from chatpipe.formats.base import FLAGS_BETWEEN
from chatpipe.formats.turns import ASSISTANT, LEFT_OUT, USER, Turn
from chatpipe.formats.whole_conversation import Example, has_repeated_role, joined_texts


def first_exchange(row: list[Turn | None], repeated_roles: str) -> Example:
    """Return the first user turn that an assistant turn follows, and that turn."""
    turns = [turn for turn in row if turn is not None]
    if repeated_roles == "drop" and has_repeated_role(turns):
        return Example(reason=reasons.REPEATED_ROLE)
    place = _exchange_place(turns)
    if place is None:
        return Example(reason=_why_no_exchange([turn["role"] for turn in turns]))
    return _exchange(row, turns, place)


def has_exchange(row: Sequence[Turn | None]) -> bool:
    """Whether an assistant turn follows a user turn."""
    return _exchange_place([turn for turn in row if turn is not None]) is not None


def _exchange_place(turns: Sequence[Turn]) -> int | None:
    """Where the first user turn is that an assistant turn follows."""
    return next(
        (
            place
            for place, (turn, reply) in enumerate(pairwise(turns))
            if turn["role"] == USER and reply["role"] == ASSISTANT
        ),
        None,
    )


def _why_no_exchange(roles: list[str]) -> str:
    """Why no assistant turn follows a user turn."""
    if not roles:
        return reasons.NO_TURN
    if ASSISTANT not in roles:
        return reasons.NO_ASSISTANT
    if USER not in roles:
        return reasons.NO_USER
    after_user = roles[roles.index(USER) + 1 :]
    if ASSISTANT not in after_user:
        return reasons.ASSISTANT_FIRST
    between = after_user[: after_user.index(ASSISTANT)]
    is_tool = any(LEFT_OUT.get(role) == reasons.TOOL for role in between)
    return reasons.TOOL_BETWEEN if is_tool else reasons.OTHER_BETWEEN


def _exchange(row: list[Turn | None], turns: list[Turn], place: int) -> Example:
    """What is trained of the row, whose exchange begins at that turn."""
    question, answer = turns[place : place + 2]
    before, after = turns[:place], turns[place + 2 :]
    systems = [turn["content"] for turn in before if LEFT_OUT.get(turn["role"]) == reasons.SYSTEM]
    others = [turn for turn in before if LEFT_OUT.get(turn["role"]) != reasons.SYSTEM]
    flags = _left_out(row, others + after) + _earlier(_spoken(before))
    if after and after[0]["role"] == ASSISTANT:
        flags.append(reasons.SPLIT_ANSWER)
        after = list(dropwhile(lambda turn: turn["role"] == ASSISTANT, after))
    flags += _further(_spoken(after))
    if answer["reasons"]:
        flags.append(reasons.REASONING)
    if answer["weight"] not in (None, 0, 1):
        flags.append(reasons.WEIGHT)
    reason = None
    if answer["weight"] == 0:
        reason = reasons.WEIGHT_0
    elif answer["calls"]:
        reason = reasons.TOOL_CALL
    elif question["media"] or answer["media"]:
        reason = reasons.MEDIA
    return Example(
        question["content"],
        answer["content"],
        system=joined_texts(systems),
        reason=reason,
        flag=FLAGS_BETWEEN.join(flags) or None,
    )


def _spoken(turns: list[Turn]) -> list[str]:
    """The roles of those turns that are the user's or the assistant's."""
    return [turn["role"] for turn in turns if turn["role"] in (USER, ASSISTANT)]


def _earlier(roles: list[str]) -> list[str]:
    """Flags for turns before the question."""
    flags = [reasons.LEADING] if roles[:1] == [ASSISTANT] else []
    rest = list(dropwhile(lambda role: role == ASSISTANT, roles))
    if set(rest) == {USER}:
        return [*flags, reasons.TWO_USERS]
    return [*flags, reasons.EARLIER] if rest else flags


def _further(roles: list[str]) -> list[str]:
    """Flags for turns after the answer."""
    flags = [reasons.LAST_USER] if roles[-1:] == [USER] else []
    return [*flags, reasons.FURTHER] if roles[: -1 if flags else None] else flags


def _left_out(row: list[Turn | None], turns: list[Turn]) -> list[str]:
    """Flags for turns that are neither question nor answer."""
    flags = {
        LEFT_OUT.get(turn["role"], reasons.OTHER)
        for turn in turns
        if turn["role"] not in (USER, ASSISTANT)
    }
    if None in row:
        flags.add(reasons.NULL)
    return sorted(flags)

"""Chat messages: the first user turn → instruction, the assistant's answer to it → output.

A row: {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

What else a row has is left out, and counted as a flag of the row.
"""

from __future__ import annotations

from itertools import dropwhile, pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from chatpipe.formats.base import FLAGS_BETWEEN, Column, Format, normalized
from chatpipe.utils.text import encodable

NO_TURN = "no turn"
NO_ASSISTANT = "no assistant turn"
NO_USER = "no user turn"
ASSISTANT_FIRST = "an assistant turn first, and a user turn without an answer"
TOOL_BETWEEN = "a tool turn between the user turn and the answer"
OTHER_BETWEEN = "a turn of another role between the user turn and the answer"
TOOL_CALL = "the answer is a tool call"
WEIGHT_0 = "the answer has weight 0"
MEDIA = "an image, sound or video in the first exchange"
UNUSABLE = frozenset(
    (
        *(NO_TURN, NO_ASSISTANT, NO_USER, ASSISTANT_FIRST, TOOL_BETWEEN, OTHER_BETWEEN),
        *(TOOL_CALL, WEIGHT_0, MEDIA),
    )
)

SYSTEM = "system turn left out"
TOOL = "tool turn left out"
NULL = "null turn left out"
EARLIER = "earlier turns left out"
LEADING = "leading assistant turn left out"
TWO_USERS = "first of two user turns in a row left out"
FURTHER = "further turns left out"
LAST_USER = "last user turn, without an answer, left out"
SPLIT_ANSWER = "rest of a split answer left out"
OTHER = "turn of another role left out"
REASONING = "reasoning left out"
WEIGHT = "weight of the answer not used"

VERSION = 2  # of this format and of sharegpt, whose turns are the same
USER, ASSISTANT = "user", "assistant"
# ShareGPT's names, and those of some models and data sets.
ROLES = {
    **dict.fromkeys(("human", "prompter"), USER),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"), ASSISTANT),
}
LEFT_OUT = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "tool": TOOL,
    "function": TOOL,
    "function_call": TOOL,
    "observation": TOOL,
    "ipython": TOOL,
}
# What the type of a part begins with: image, image_url, input_audio, …
MEDIA_TYPES = ("image", "input_image", "audio", "input_audio", "video", "file", "input_file")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
TURN = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("weight", pa.float64()),
        ("calls", pa.bool_()),
        ("media", pa.bool_()),
        ("reasons", pa.bool_()),
    ]
)


class _Exchange(NamedTuple):
    instruction: str | None = None
    output: str | None = None
    reason: str | None = None
    flag: str | None = None


def turns_from_value(value: Any) -> list[dict[str, Any] | None] | None:
    """The turns of a row: role and content, or ShareGPT's from and value; content may be a list
    of parts that are text. None where it is something else."""
    if not isinstance(value, list):
        return None
    turns: list[dict[str, Any] | None] = []
    for item in value:
        if item is None:
            turns.append(None)
            continue
        turn = _turn(item)
        if turn is None:
            return None
        turns.append(turn)
    return turns


def _turn(item: Any) -> dict[str, Any] | None:
    if not isinstance(item, dict) or getattr(item, "repeated", frozenset()) & {"role", "content"}:
        return None
    role = item.get("role", item.get("from"))
    parts = item.get("content", item.get("value"))
    media = _has_media(parts)
    content = None if media else _text(parts)
    weight = 0 if item.get("train") is False else item.get("weight")
    if not isinstance(role, str) or content is NotImplemented or not encodable(role):
        return None
    name = role.strip().lower()
    return {
        "role": ROLES.get(name, name),
        "content": content,
        "weight": float(weight) if isinstance(weight, int | float) else None,
        "calls": bool(item.get("tool_calls") or item.get("function_call")),
        "media": media,
        "reasons": any(item.get(key) for key in REASONING_KEYS),
    }


def _has_media(content: Any) -> bool:
    """Whether a part of the content says that it is something else than text."""
    if not isinstance(content, list):
        return False
    kinds = [part.get("type") for part in content if isinstance(part, dict)]
    return any(isinstance(kind, str) and kind.startswith(MEDIA_TYPES) for kind in kinds)


def _text(content: Any) -> Any:
    """The text of a turn, None where there is none; NotImplemented where it is no text."""
    if isinstance(content, list):
        parts: list[Any] = [
            part.get("text") if isinstance(part, dict) else part for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            return NotImplemented
        content = "".join(parts)
    if content is None or (isinstance(content, str) and encodable(content)):
        return content
    return NotImplemented


def first_exchanges(conversations: pa.ChunkedArray) -> pa.Table:
    """The first user turn and the answer to it of every conversation."""
    # Turns are few and ragged: a row's exchange is looked for in Python, the rest is columnar.
    exchanges = [_first_exchange(turns or []) for turns in conversations.to_pylist()]
    columns = list(zip(*exchanges, strict=True)) or [(), (), (), ()]
    instruction, output, reason, flag = (pa.array(column, pa.string()) for column in columns)
    return normalized(instruction, pa.nulls(len(exchanges), pa.string()), output, reason, flag)


def _first_exchange(row: list[dict[str, Any] | None]) -> _Exchange:
    turns = [turn for turn in row if turn is not None]
    for place, (turn, reply) in enumerate(pairwise(turns)):
        if turn["role"] == USER and reply["role"] == ASSISTANT:
            return _exchange(row, turns, place)
    return _Exchange(reason=_why_no_exchange([turn["role"] for turn in turns]))


def _why_no_exchange(roles: list[str]) -> str:
    """Why no assistant turn follows a user turn."""
    if not roles:
        return NO_TURN
    if ASSISTANT not in roles:
        return NO_ASSISTANT
    if USER not in roles:
        return NO_USER
    after_user = roles[roles.index(USER) + 1 :]
    if ASSISTANT not in after_user:
        return ASSISTANT_FIRST
    between = after_user[: after_user.index(ASSISTANT)]
    return TOOL_BETWEEN if any(LEFT_OUT.get(role) == TOOL for role in between) else OTHER_BETWEEN


def _exchange(
    row: list[dict[str, Any] | None], turns: list[dict[str, Any]], place: int
) -> _Exchange:
    """What is trained of the row, whose exchange begins at that turn."""
    question, answer = turns[place : place + 2]
    before, after = turns[:place], turns[place + 2 :]
    flags = _left_out(row, before + after) + _earlier(_spoken(before))
    if after and after[0]["role"] == ASSISTANT:
        flags.append(SPLIT_ANSWER)
        after = list(dropwhile(lambda turn: turn["role"] == ASSISTANT, after))
    flags += _further(_spoken(after))
    if answer["reasons"]:
        flags.append(REASONING)
    if answer["weight"] not in (None, 0, 1):
        flags.append(WEIGHT)
    reason = None
    if answer["weight"] == 0:
        reason = WEIGHT_0
    elif answer["calls"]:
        reason = TOOL_CALL
    elif question["media"] or answer["media"]:
        reason = MEDIA
    flag = FLAGS_BETWEEN.join(flags) or None
    return _Exchange(question["content"], answer["content"], reason, flag)


def _spoken(turns: list[dict[str, Any]]) -> list[str]:
    """The roles of those turns that are the user's or the assistant's."""
    return [turn["role"] for turn in turns if turn["role"] in (USER, ASSISTANT)]


def _earlier(roles: list[str]) -> list[str]:
    """Flags for turns before the question."""
    flags = [LEADING] if roles[:1] == [ASSISTANT] else []
    rest = list(dropwhile(lambda role: role == ASSISTANT, roles))
    if set(rest) == {USER}:
        return [*flags, TWO_USERS]
    return [*flags, EARLIER] if rest else flags


def _further(roles: list[str]) -> list[str]:
    """Flags for turns after the answer."""
    flags = [LAST_USER] if roles[-1:] == [USER] else []
    return [*flags, FURTHER] if roles[: -1 if flags else None] else flags


def _left_out(row: list[dict[str, Any] | None], turns: list[dict[str, Any]]) -> list[str]:
    """Flags for turns that are neither question nor answer."""
    flags = {
        LEFT_OUT.get(turn["role"], OTHER) for turn in turns if turn["role"] not in (USER, ASSISTANT)
    }
    if None in row:
        flags.add(NULL)
    return sorted(flags)


FORMAT = Format(
    columns={"messages": Column(pa.list_(TURN), from_value=turns_from_value)},
    normalize=lambda table: first_exchanges(table["messages"]),
    unusable=UNUSABLE,
    version=VERSION,
)

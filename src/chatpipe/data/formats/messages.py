"""Chat messages: the first user turn → instruction, the assistant's answer to it → output.

A row: {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

What else a row has is left out, and counted as a flag of the row.
"""

from __future__ import annotations

from itertools import dropwhile, pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from chatpipe.data.formats.base import FLAGS_BETWEEN, Column, Format, normalized
from chatpipe.data.text import encodable

NO_EXCHANGE = "no user turn followed by an assistant turn"
TOOL_CALL = "the answer is a tool call"
WEIGHT_0 = "the answer has weight 0"

SYSTEM = "system turn left out"
TOOL = "tool turn left out"
NULL = "null turn left out"
EARLIER = "earlier turns left out"
FURTHER = "further turns left out"
SPLIT_ANSWER = "rest of a split answer left out"
OTHER = "turn of another role left out"
REASONING = "reasoning left out"
WEIGHT = "weight of the answer not used"

USER, ASSISTANT = "user", "assistant"
# ShareGPT's names, and those of some models.
ROLES = {
    "human": USER,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "bard": ASSISTANT,
    "model": ASSISTANT,
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
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
TURN = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("weight", pa.float64()),
        ("calls", pa.bool_()),
        ("reasons", pa.bool_()),
    ]
)


class _Exchange(NamedTuple):
    instruction: str | None = None
    output: str | None = None
    reason: str | None = NO_EXCHANGE
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
    content = _text(item.get("content", item.get("value")))
    weight = 0 if item.get("train") is False else item.get("weight")
    if not isinstance(role, str) or content is NotImplemented or not encodable(role):
        return None
    return {
        "role": ROLES.get(role, role),
        "content": content,
        "weight": float(weight) if isinstance(weight, int | float) else None,
        "calls": bool(item.get("tool_calls") or item.get("function_call")),
        "reasons": any(item.get(key) for key in REASONING_KEYS),
    }


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


def _normalize(table: pa.Table) -> pa.Table:
    # Turns are few and ragged: a row's exchange is looked for in Python, the rest is columnar.
    exchanges = [_first_exchange(turns or []) for turns in table["messages"].to_pylist()]
    columns = list(zip(*exchanges, strict=True)) or [(), (), (), ()]
    instruction, output, reason, flag = (pa.array(column, pa.string()) for column in columns)
    return normalized(instruction, pa.nulls(len(exchanges), pa.string()), output, reason, flag)


def _first_exchange(row: list[dict[str, Any] | None]) -> _Exchange:
    turns = [turn for turn in row if turn is not None]
    for place, (turn, reply) in enumerate(pairwise(turns)):
        if turn["role"] == USER and reply["role"] == ASSISTANT:
            return _exchange(row, turns, place)
    return _Exchange()


def _exchange(
    row: list[dict[str, Any] | None], turns: list[dict[str, Any]], place: int
) -> _Exchange:
    """What is trained of the row, whose exchange begins at that turn."""
    question, answer = turns[place : place + 2]
    before, after = turns[:place], turns[place + 2 :]
    flags = _left_out(row, before + after)
    if any(turn["role"] in (USER, ASSISTANT) for turn in before):
        flags.append(EARLIER)
    if after and after[0]["role"] == ASSISTANT:
        flags.append(SPLIT_ANSWER)
        after = list(dropwhile(lambda turn: turn["role"] == ASSISTANT, after))
    if any(turn["role"] in (USER, ASSISTANT) for turn in after):
        flags.append(FURTHER)
    if answer["reasons"]:
        flags.append(REASONING)
    if answer["weight"] not in (None, 0, 1):
        flags.append(WEIGHT)
    reason = None
    if answer["weight"] == 0:
        reason = WEIGHT_0
    elif answer["calls"]:
        reason = TOOL_CALL
    flag = FLAGS_BETWEEN.join(flags) or None
    return _Exchange(question["content"], answer["content"], reason, flag)


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
    normalize=_normalize,
)

"""The turns of a conversation, as data sets spell them: role and content, or from and value."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from chatpipe.formats import turn_reasons as reasons
from chatpipe.utils.text import encodable

USER, ASSISTANT = SPOKEN = "user", "assistant"
Turn = dict[str, Any]  # of the fields of TURN
# ShareGPT's names, and those of some models and data sets.
ROLES = {
    **dict.fromkeys(("human", "prompter"), USER),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"), ASSISTANT),
}
# Other roles, and the flag of a row of which such a turn is left out.
LEFT_OUT = {
    **dict.fromkeys(("system", "developer"), reasons.SYSTEM),
    **dict.fromkeys(("tool", "function", "function_call", "observation", "ipython"), reasons.TOOL),
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
TURNS = pa.list_(TURN)


def plain_turn(role: str, content: str | None) -> Turn:
    """Return a turn that is a role and a text, and nothing else."""
    return {
        "role": role,
        "content": content,
        "weight": None,
        "calls": False,
        "media": False,
        "reasons": False,
    }


def turns_from_value(value: Any) -> list[Turn | None] | None:
    """Return the turns of a row: role and content, or ShareGPT's from and value; content may be a
    list of parts that are text. None where it is something else."""
    if not isinstance(value, list):
        return None
    turns: list[Turn | None] = []
    for item in value:
        if item is None:
            turns.append(None)
            continue
        turn = _turn(item)
        if turn is None:
            return None
        turns.append(turn)
    return turns


def history_from_value(value: Any) -> list[Turn | None] | None:
    """Return the turns before a row's own: as `turns_from_value`, or pairs of a question and its
    answer. Empty text is no turn."""
    if isinstance(value, str) and not value.strip():
        return []
    if not isinstance(value, list) or not value or not isinstance(value[0], list):
        return turns_from_value(value)
    turns: list[Turn | None] = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            return None
        for role, text in zip((USER, ASSISTANT), pair, strict=True):
            content = _text(text)
            if content is NotImplemented:
                return None
            turns.append(plain_turn(role, content))
    return turns


def _turn(item: Any) -> Turn | None:
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

"""Pydantic's faults of a request's body as one sentence in words of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from chatpipe.utils.expected_values import Describe, expected_value

LONGEST_VALUE = 60  # letters of a value that is repeated
_MEMBERS = ("str", "int", "float", "bool")  # how pydantic names members of a union, beside list[…]
_WORDS: dict[str, Describe] = dict.fromkeys(
    ("dict_type", "model_type", "model_attributes_type"), lambda _: "an object with keys"
)


def body_fault(
    faults: Sequence[ErrorDetails], expected: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Return the place of the first fault, and the sentence on it.

    Args:
        expected: Keys of the body that may have values of several kinds → what they may be, in
            words.
    """
    path = _path(faults[0])
    # A list that is no text either, but has a fault within: that one is what to mend.
    path = next(
        (p for p in map(_path, faults) if len(p) > len(path) and p[: len(path)] == path), path
    )
    group = [fault for fault in faults if _path(fault) == path]
    name = ".".join(path) or "the body"
    if path and (words := (expected or {}).get(path[0])):
        return path[0], f"{path[0]}: expected {words}."
    if any(fault["type"] == "missing" for fault in group):
        return name, f"{name}: is missing."
    kinds = list(dict.fromkeys(expected_value(fault, _WORDS) for fault in group))
    value = _shown(group[0].get("input"))
    return name, f"{name}: expected {' or '.join(kinds)}{value and f', found {value}'}."


def _path(fault: ErrorDetails) -> tuple[str, ...]:
    parts = map(str, fault["loc"])
    return tuple(part for part in parts if part not in _MEMBERS and "[" not in part)


def _shown(value: Any) -> str:
    """Return a value as the body has it; nothing where it is too long."""
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else ""

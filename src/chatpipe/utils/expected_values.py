"""What pydantic expects of a value, in words that fit YAML and JSON alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

Describe = Callable[[Mapping[str, Any]], str]  # of the context of an error
LISTS = ("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type")
_DESCRIPTIONS: dict[str, Describe] = {
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), lambda c: "text"),
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
        lambda c: "a whole number",
    ),
    **dict.fromkeys(
        ("float_type", "float_parsing", "decimal_type", "decimal_parsing"),
        lambda c: "a number",
    ),
    **dict.fromkeys(("bool_type", "bool_parsing"), lambda c: "true or false"),
    **dict.fromkeys(LISTS, lambda c: "a list"),
    "finite_number": lambda c: "a finite number",
    "none_required": lambda c: "nothing",
    "literal_error": lambda c: str(c["expected"]).replace("'", ""),
    "greater_than": lambda c: f"a number greater than {_number(c['gt'])}",
    "greater_than_equal": lambda c: f"a number of at least {_number(c['ge'])}",
    "less_than": lambda c: f"a number less than {_number(c['lt'])}",
    "less_than_equal": lambda c: f"a number of at most {_number(c['le'])}",
    "string_too_short": lambda c: (
        "text that is not empty"
        if c["min_length"] == 1
        else f"at least {c['min_length']} characters"
    ),
    "string_too_long": lambda c: f"at most {c['max_length']} characters",
    "string_pattern_mismatch": lambda c: (
        "text that is not blank" if c["pattern"] == r"\S" else f"text of the form {c['pattern']}"
    ),
    "too_short": lambda c: f"a list of at least {c['min_length']}",
    "too_long": lambda c: f"a list of at most {c['max_length']}",
    "invalid_key": lambda c: "a key that is text",
}


def expected_value(error: ErrorDetails, words: Mapping[str, Describe] | None = None) -> str:
    """Return what is expected in place of the value: "a whole number", "at most 20 characters".

    Args:
        words: Kind of error → its words, in place of those that are usual.
    """
    describe = (words or {}).get(error["type"]) or _DESCRIPTIONS.get(error["type"])
    return describe(error.get("ctx", {})) if describe else _plain_message(error["msg"])


def without_kind(message: str) -> str:
    """Return the message of a validator of ours, without the words that pydantic adds to it."""
    return message.removeprefix("Value error, ")


def _plain_message(message: str) -> str:
    """A message that is not in the table, without its opening words."""
    text = re.sub(r"^Input should be (an? )?(valid )?(instance of )?", "", without_kind(message))
    return text[:1].lower() + text[1:]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"

"""Pydantic's errors as sentences: file or override, key, expected value, actual value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.utils.expected_values import LISTS, Describe, expected_value, without_kind
from chatpipe.utils.visible_text import visible

MAX_SHOWN = 60  # characters of a value
PLAIN_MEMBERS = ("int", "constrained-int", "bool")  # pydantic's names for members of a union
_Location = tuple[int | str, ...]
_WORDS: dict[str, Describe] = {
    **dict.fromkeys(LISTS, lambda c: "a list, like [a, b]"),
    **dict.fromkeys(("dict_type", "mapping_type"), lambda c: "keys and values, like {a: b}"),
    "too_long": lambda c: f"at most {c['max_length']} items",
}
SectionT = TypeVar("SectionT", bound=BaseModel)


def fault_sentences(
    error: ValidationError, origin: str, model: type[BaseModel], overrides: Sequence[str] = ()
) -> list[str]:
    """Return a sentence for each fault in the values of a `model`.

    Args:
        origin: The file that the values were read from.
        overrides: Values of `--set`; a sentence names the one that set the faulty value.
    """
    grouped: dict[_Location, list[ErrorDetails]] = {}
    details = error.errors(include_url=False)
    for detail in details:
        grouped.setdefault(_key_path(detail["loc"], model), []).append(detail)
    result = []
    for path, group in grouped.items():
        has_nested_faults = any(
            len(other) > len(path) and other[: len(path)] == path for other in grouped
        )
        # "Too short", and faults of another member of a union, follow from the nested faults.
        if has_nested_faults and all(
            d["type"] == "too_short" or len(d["loc"]) > len(path) for d in group
        ):
            continue
        key = visible(" ".join(".".join(map(str, path)).split("\n")))
        message = _message(group, path, model)
        end = "" if message.endswith("?") else "."
        source = setting_origin(key, origin, overrides) if key else origin
        result.append(": ".join([source, *([key] if key else []), f"{message}{end}"]))
    return result


def parse_section(section: type[SectionT], values: Mapping[str, Any], origin: str) -> SectionT:
    """Return these values as a section; ConfigError has a sentence for each fault, which names
    their origin, such as a file."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError(fault_sentences(error, origin, section)) from None


def setting_origin(key: str, origin: str, overrides: Sequence[str]) -> str:
    """Return where the value of a key comes from.

    That is the last override of the key, of its section or of a part of it, or else the file.
    """
    for override in reversed(overrides):
        set_key = override.partition("=")[0]
        if f"{key}.".startswith(f"{set_key}.") or f"{set_key}.".startswith(f"{key}."):
            return f"--set {override}"
    return origin


def suggest_name(name: str, names: Sequence[str]) -> str:
    """Return 'did you mean …?', or the list of known names."""
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names) or 'none'}"


def _message(group: Sequence[ErrorDetails], path: _Location, model: type[BaseModel]) -> str:
    detail = group[0]
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"unknown key{_key_hint(path, model)}"
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        message, value = without_kind(detail["msg"]), detail.get("input")
        return message if isinstance(value, list) else _with_value(message, value)
    if kind == "too_short":
        return f"at least {detail['ctx']['min_length']} is required"
    expected = list(dict.fromkeys(_expected(d, path, model) for d in group))
    hint = next((hint for d in group if (hint := _hint(d))), "")
    return _with_value(f"expected {' or '.join(expected)}", detail.get("input")) + hint


def _expected(detail: ErrorDetails, path: _Location, model: type[BaseModel]) -> str:
    """The value that the key may have, in words of YAML."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in {"model_type", "model_attributes_type", "dataclass_type"}:
        section = _section(path, model)
        fields = ", ".join(section.model_fields) if section else ""
        return f"keys and values ({fields})" if fields else "keys and values"
    if kind == "string_pattern_mismatch" and context.get("pattern", "").startswith("^[a-z0-9]"):
        return "lower-case letters, digits and . _ -, with a letter or digit first"
    return expected_value(detail, _WORDS)


def _hint(detail: ErrorDetails) -> str:
    """How to correct the value, where it shows what was meant."""
    value, kind = detail.get("input"), detail["type"]
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return "; put it in quotes"
    if kind == "literal_error" and isinstance(value, str):
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        close = difflib.get_close_matches(value, choices, 1)
        return f"; did you mean {close[0]}?" if close and len(choices) > 1 else ""
    if kind == "string_pattern_mismatch" and isinstance(value, str):
        cleaned = re.sub(r"[^a-z0-9._-]+", "-", value.lower()).strip("-._")
        pattern = detail["ctx"]["pattern"]
        return f"; did you mean {cleaned}?" if cleaned and re.search(pattern, cleaned) else ""
    if kind == "tuple_type" and isinstance(value, str):
        return f"; write [{value}]" if len(value) < MAX_SHOWN else ""
    return ""


def _with_value(message: str, value: Any) -> str:
    text = format_value(value)
    is_named = isinstance(value, str) and text in message
    return f"{message}, found {text}" if text and not is_named else message


def format_value(value: Any) -> str:
    """Return a value as YAML writes it; empty where it is too long to help."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            text = f"{value}"
        case str():
            text = repr(value)
        case list():
            return "a list"
        case _:
            return ""
    return text if len(text) <= MAX_SHOWN else ""


def _key_path(location: _Location, model: type[BaseModel]) -> _Location:
    """The location as keys of the file, without pydantic's names for the members of a union."""
    path: list[int | str] = []
    sections: list[type[BaseModel]] = [model]
    annotations: list[Any] = []  # of the last key
    for part in location:
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        if isinstance(part, str) and not fields and _is_union_member(part, annotations):
            continue
        path.append(part)
        if isinstance(part, str):
            sections = [s for section in sections for s in _sections_of(section, part)]
            annotations = [field.annotation for field in fields]
    return tuple(path)


def _is_union_member(part: str, annotations: Sequence[Any]) -> bool:
    """Whether it is pydantic's name for a member of a union, which these annotations may be."""
    if part in PLAIN_MEMBERS:
        return any(get_origin(annotation) in (Union, UnionType) for annotation in annotations)
    return bool(
        re.match(r"(tuple|list|dict|literal|nullable|constrained|function|union)\b.*\[", part)
    )


def _section(path: _Location, model: type[BaseModel]) -> type[BaseModel] | None:
    """The model of the section at that path."""
    sections = [model]
    for part in path:
        if isinstance(part, str):
            sections = [s for section in sections for s in _sections_of(section, part)]
    return sections[0] if sections else None


def _sections_of(section: type[BaseModel], name: str) -> Iterator[type[BaseModel]]:
    field = section.model_fields.get(name)
    annotations = [field.annotation] if field else []
    while annotations:
        annotation = annotations.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        annotations += get_args(annotation)


def _key_hint(path: _Location, model: type[BaseModel]) -> str:
    """'; did you mean …?' or the keys of the section at that path."""
    section = _section(path[:-1], model)
    if section is None:
        return ""
    name = str(path[-1])
    if "variants" in section.model_fields and name in Variant.model_fields:  # a study's file
        return "; it is a setting of a variant: write it in the variant's settings, or give --set"
    keys = [*section.model_fields, *(["preset"] if section is Variant else [])]
    nested_keys = _dotted_keys(model)
    same_name = [key for key in nested_keys if key.rpartition(".")[2] == name]
    close = difflib.get_close_matches(name, keys, 1) or difflib.get_close_matches(
        name, [key.rpartition(".")[2] for key in nested_keys], 1
    )
    if same_name:
        return f"; did you mean {_alternatives(same_name)}?"
    if close and close[0] not in keys:
        close = [key for key in nested_keys if key.rpartition(".")[2] == close[0]]
    if close:
        return f"; did you mean {_alternatives(close)}?"
    return f"; known here: {', '.join(keys)}"


def _dotted_keys(model: type[BaseModel]) -> list[str]:
    """section.key of the sections that are mappings, not lists."""
    return [
        f"{name}.{key}"
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    ]


def _alternatives(keys: Sequence[str]) -> str:
    return " or ".join([", ".join(keys[:-1]), keys[-1]] if len(keys) > 1 else keys)

"""Names of runs: a variant's name, followed by the settings in which the run differs from it.

`smol-merge+training.epochs=2` is a file name on every system, a report's title and a variant's name
on the command line. Where settings are too long, or hold other characters than a name may, a digest
of them follows: `smol-merge+datasets=sample-dialog+3f2a9c01`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from chatpipe.config.prompts import CHATS, TEMPLATES
from chatpipe.config.schema import Study, Variant

SEPARATOR = "+"
MAX_LENGTH = 120  # of the whole name: file systems allow 255 bytes, and suffixes follow
_MAX_VALUE_LENGTH = 40
_MAX_FILE_NAME = 60
_DIGEST_LENGTH = 8
_MISSING = object()
SHORT_KEYS = {
    "lr": "training.learning_rate",
    "seed": "training.seed",
    "epochs": "training.epochs",
    "rank": "lora.rank",
    "alpha": "lora.alpha",
}
_LIST_KEYS = frozenset({"datasets"})


def plain_name(name: str) -> str:
    """Return the variant's or study's name without the settings that follow it."""
    return name.partition(SEPARATOR)[0]


def cell_name(name: str) -> str:
    """Return a name like `smol-merge/lr=3e-4/seed=1` as the run's name that it stands for, with `+`
    and whole keys; any other name or path as it is."""
    plain, *settings = name.split("/")
    if not settings or not all("=" in setting for setting in settings):
        return name
    pairs = [setting.split("=", 1) for setting in settings]
    return SEPARATOR.join(
        [
            plain,
            *(f"{SHORT_KEYS.get(key, key)}={_value_in_name(key, value)}" for key, value in pairs),
        ]
    )


def short_cell_name(name: str) -> str:
    """Return a run's name as people write it, `smol-merge/lr=0.0003/seed=1`; as it is where that
    would be no name of the run."""
    plain, *settings = name.split(SEPARATOR)
    long_keys = {key: short for short, key in SHORT_KEYS.items()}
    pairs = [setting.partition("=") for setting in settings]
    short = "/".join([plain, *(f"{long_keys.get(key, key)}={value}" for key, _, value in pairs)])
    return short if cell_name(short) == name else name


def _value_in_name(key: str, value: str) -> str:
    """A value as a run's name has it: a list in brackets, 1e-3 as 0.001."""
    if key in _LIST_KEYS and not value.startswith("["):
        return f"[{value}]"
    try:
        return value if value.isdigit() else _plain_text(float(value))
    except ValueError:
        return value


def find_plain_name(name: str, names: Iterable[str]) -> str | None:
    """Return the longest of `names` that a run's name equals or extends by settings."""
    matches = [item for item in names if f"{name}{SEPARATOR}".startswith(f"{item}{SEPARATOR}")]
    return max(matches, key=len, default=None)


def parse_settings(name: str) -> list[str]:
    """Return the `key=value` settings that follow the variant's name."""
    return name.split(SEPARATOR)[1:]


def rename_run(variant: Variant, plain: Variant) -> Variant:
    """Return `variant` under a name that lists the settings in which it differs from `plain`.

    Settings that change no result (`Variant.hash_exclude`) are left out.
    """
    return variant.model_copy(update={"name": _join(plain.name, _differences(variant, plain))})


def rename_by_settings(variant: Variant, settings: dict[str, Any]) -> Variant:
    """Return `variant` under a name that lists these settings (dotted key -> value)."""
    return variant.model_copy(update={"name": _join(variant.name, settings)})


def rename_study(study: Study, variants: Iterable[Variant]) -> Study:
    """Return the study under a name that lists the settings in the names of its variants.

    Args:
        variants: The variants of the study, in its order, with the names of their runs.
    """
    pairs = zip(study.variants, variants, strict=True)
    added = {
        setting: None
        for member, variant in pairs
        for setting in parse_settings(variant.name)
        if setting not in parse_settings(member)
    }
    name = SEPARATOR.join([study.name, *added])
    return study.model_copy(
        update={"name": name if len(name) <= MAX_LENGTH else _truncate(name, name)}
    )


def rename_by_members(study_name: str, members: Iterable[str]) -> str:
    """Return a name for a run of other variants than the study's own."""
    return _join(study_name, {"variants": list(members)})


def name_of_file(path: Path) -> str:
    """Return a name for the rows of a file.

    It is the file's own name; where that is too long or has characters that a name cannot have, a
    digest follows, so that two files do not get the same name.
    """
    plain = unicodedata.normalize("NFKD", path.stem.lower())
    letters = "".join(x if x.isascii() and x.isalnum() else "-" for x in plain)
    name = letters[:_MAX_FILE_NAME].strip("-") or "rows"
    if path.stem.isascii() and len(path.stem) <= _MAX_FILE_NAME:
        return name
    return unique_name(name, path.stem)


def unique_name(name: str, *content: str) -> str:
    """Return the name followed by a digest of `content`."""
    return f"{name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_DIGEST_LENGTH]}"


def _differences(variant: Variant, plain: Variant) -> dict[str, Any]:
    """Dotted key -> the variant's value, in the order of the fields."""
    return dict(_leaves(_settings(variant), _settings(plain), ""))


def _settings(variant: Variant) -> dict[str, Any]:
    settings = variant.model_dump(mode="json", exclude={*Variant.hash_exclude, "name"})
    template = variant.prompt_template
    if {**TEMPLATES, **CHATS}.get(template.name) == template:
        settings["prompt_template"] = template.name
    return settings


def _leaves(value: Any, plain: Any, key: str) -> Iterator[tuple[str, Any]]:
    if value == plain:
        return
    if not (isinstance(value, dict) and isinstance(plain, dict)):
        yield key, value
        return
    if value.get("name") != plain.get("name"):  # a template of another name is another template
        yield key, value
        return
    for part in {**value, **plain}:
        yield from _leaves(
            value.get(part, _MISSING), plain.get(part, _MISSING), f"{key}.{part}" if key else part
        )


def _join(name: str, differences: dict[str, Any]) -> str:
    """The name and the settings; a digest instead where the name would not say them exactly."""
    if not differences:
        return name
    texts = {key: _text(value) for key, value in differences.items()}
    joined = SEPARATOR.join([name, *(f"{key}={text}" for key, text in texts.items())])
    if len(joined) <= MAX_LENGTH and all(
        _round_trips(text, differences[key]) for key, text in texts.items()
    ):
        return joined
    return _truncate(
        joined, json.dumps(differences, sort_keys=True, ensure_ascii=False, default=str)
    )


def _truncate(name: str, content: str) -> str:
    """The name cut to its maximal length, and a digest of the content."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{name[: MAX_LENGTH - _DIGEST_LENGTH - 1].rstrip('-.+=')}{SEPARATOR}{digest}"


def _text(value: Any) -> str:
    """A value in lower-case letters, digits and `. _ , -`, shortened."""
    return re.sub(r"[^a-z0-9._,-]+", "-", _plain_text(value).lower())[:_MAX_VALUE_LENGTH].strip(
        "-."
    )


def _plain_text(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            is_whole = math.isfinite(value) and value.is_integer() and abs(value) < 1e15
            return str(int(value)) if is_whole else repr(value)
        case dict() if isinstance(value.get("name", value.get("id")), str):
            return str(value.get("name", value.get("id")))
        case list():
            return ",".join(map(_plain_text, value))
        case dict():
            return json.dumps(value, ensure_ascii=False)
    return "" if value is _MISSING else str(value)


def _round_trips(text: str, value: Any) -> bool:
    """Whether the text is the whole value, so that `--set key=text` gives it again."""
    if isinstance(value, str):
        return text == value and not _looks_like_another_type(text)
    return isinstance(value, int | float | None) and text == _plain_text(value)


def _looks_like_another_type(text: str) -> bool:
    return text in {"null", "true", "false", ""} or bool(re.fullmatch(r"[-+.\d][\d.e_-]*", text))

"""Settings laid over others: presets beneath a file, `--set key.path=value` over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.merging import deep_merge
from chatpipe.config.prompts import CHATS, TEMPLATES
from chatpipe.config.yaml_files import is_yaml, read_value
from chatpipe.data.catalog import DATASETS
from chatpipe.errors import ConfigError
from chatpipe.sources.local_paths import PACKAGED
from chatpipe.utils.user_paths import expanded


@dataclass(frozen=True)
class Override:
    """One `--set`: where it sets what."""

    text: str
    keys: tuple[str, ...]
    value: Any


def parse_override(text: str) -> Override:
    """Return the override that `key.path=value` stands for; the value is YAML.

    Paths of data sets count from the working directory.
    """
    key, equals, value_text = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError([f"--set {text}: write it as key.path=value, like training.epochs=1."])
    try:
        value = read_value(value_text)
    except ValueError as error:
        problem = str(error).removeprefix("line 1 ").removeprefix("it ")
        remedy = "" if "in quotes" in problem else "; put text in quotes"
        raise ConfigError([f"--set {text}: the value {problem}{remedy}."]) from None
    return Override(text, keys, paths_relative_to(Path.cwd(), keys, value))


def apply_override(settings: dict[str, Any], override: Override) -> dict[str, Any]:
    """Return the settings with the override: mappings are merged, all else is replaced."""
    result = _replaced(expand(settings), override.keys, override, ())
    assert isinstance(result, dict)
    return result


def expand(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with `split` and `prompt_template` as keys and values, so that a part
    of them can be laid over the rest."""
    result = dict(settings)
    if isinstance(result.get("split"), str):
        result["split"] = {"method": result["split"]}
    template = result.get("prompt_template")
    templates = {**TEMPLATES, **CHATS}
    if isinstance(template, str) and template in templates:
        result["prompt_template"] = templates[template].model_dump()
    return result


def _replaced(old: Any, keys: Sequence[str], override: Override, above: tuple[str, ...]) -> Any:
    """`old` with the override's value at these keys; above: the keys that led here."""
    if not keys:
        # Its shorthand as keys and values, so that what it leaves out stays.
        value = expand({above[0]: override.value})[above[0]] if len(above) == 1 else override.value
        both = isinstance(old, dict) and isinstance(value, dict)
        return deep_merge(old, value) if both else value
    key, rest = keys[0], keys[1:]
    if isinstance(old, list):
        index = _place(key, old, override, above)
        item = _replaced(_catalogue_entry(old[index]), rest, override, (*above, key))
        return [*old[:index], item, *old[index + 1 :]]
    if key.isdecimal() and above and old is None:
        _place(key, [], override, above)
    if not isinstance(old, dict):
        old = {}
    section = expand({key: _replaced(old.get(key), rest, override, (*above, key))})
    return {**old, **section} if not above else {**old, key: section[key]}


def _place(key: str, items: list[Any], override: Override, above: tuple[str, ...]) -> int:
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    name = ".".join(above)
    count = f"is a list of {len(items)}, counted from 0 (the last is {name}.{len(items) - 1})"
    problem = count if items else "has no items of the variant's own"
    raise ConfigError(
        [f"--set {override.text}: {name} {problem}; or write the whole list, like {name}=[…]."]
    )


def _catalogue_entry(entry: Any) -> Any:
    is_name = isinstance(entry, str) and entry in DATASETS
    return DATASETS[entry].model_dump() if is_name else entry


def paths_relative_to(folder: Path, keys: tuple[str, ...], value: Any) -> Any:
    """Return the value for these keys with absolute paths of data sets and tasks."""
    if keys == ("evaluation", "tasks") and isinstance(value, list):
        return tasks_relative_to(folder, value)
    if keys[0] not in ("datasets", "heldout"):
        return value
    if isinstance(value, str) and (keys[-1] == "path" or keys == ("heldout",)):
        return value if value in DATASETS else _absolute(folder, value)
    if isinstance(value, list):
        return [paths_relative_to(folder, keys, item) for item in value]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return {**value, "path": _absolute(folder, value["path"])}
    return value


def tasks_relative_to(folder: Path, tasks: list[Any]) -> list[Any]:
    """Return `evaluation.tasks` with absolute paths of files."""
    return [
        _absolute(folder, task) if isinstance(task, str) and is_yaml(task) else task
        for task in tasks
    ]


def _absolute(folder: Path, path: str) -> str:
    if not path or path.startswith(PACKAGED):
        return path
    return str((folder / expanded(path)).absolute())

"""The files of a task that is a YAML file of one's own: includes, Python modules and data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chatpipe.errors import ConfigError
from chatpipe.utils.file_digests import file_digest
from chatpipe.utils.sentences import one_line


@dataclass(frozen=True)
class _Function:
    """What `!function module.name` stands for."""

    reference: str
    folder: Path

    @property
    def module(self) -> Path:
        """The module's file beside the YAML file; it need not exist, as a library's does not."""
        module, _, _ = self.reference.rpartition(".")
        return self.folder / f"{module.replace('.', '/')}.py"


@dataclass(frozen=True)
class TaskFiles:
    """What a task is made of.

    Attributes:
        yaml: Its file.
        code: That file, those it includes, and Python modules that they name.
        data: Local files of its data set.
    """

    yaml: Path
    code: tuple[Path, ...]
    data: tuple[Path, ...]

    @property
    def root(self) -> Path:
        """The directory that all of the code is in."""
        parents = set(self.yaml.parents)
        for file in self.code:
            parents &= set(file.parents)
        return max(parents, key=lambda folder: len(folder.parts))

    def digests(self) -> list[list[str]]:
        """[name, digest of the content] of every file: the same wherever they lie."""
        named = [*self.code, *self.data]
        return [[file.name, file_digest(file)] for file in named]


def task_files(path: Path) -> TaskFiles:
    """Return the files of a task.

    Raises:
        ConfigError: One does not exist, or the file is no task.
    """
    path = path.resolve()
    settings, code = _read(path, ())
    if not isinstance(settings.get("task"), str):
        raise ConfigError(
            [
                f"evaluation.tasks: {path}: names no `task`; a file is one task, and a group's "
                "tasks are listed one by one."
            ]
        )
    return TaskFiles(path, tuple(dict.fromkeys(code)), tuple(_data_files(path, settings)))


def absolute_data(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a task's `dataset_kwargs` with the paths of local files as seen from its folder."""

    def absolute(value: Any) -> Any:
        if isinstance(value, str):
            return str(folder / value) if _is_local(value) else value
        if isinstance(value, dict):
            return {name: absolute(item) for name, item in value.items()}
        return [absolute(item) for item in value] if isinstance(value, list | tuple) else value

    paths = {"data_files", "data_dir"}
    return {name: absolute(item) if name in paths else item for name, item in settings.items()}


def _is_local(value: str) -> bool:
    return "://" not in value


def _read(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], list[Path]]:
    """(settings with those it includes, files of code)."""
    if path in above:
        raise ConfigError([f"evaluation.tasks: {path}: includes itself."])
    settings = _load(path)
    included = settings.pop("include", [])
    merged: dict[str, Any] = {}
    code = [path]
    for name in included if isinstance(included, list) else [included]:
        inner, files = _read((path.parent / name).resolve(), (*above, path))
        merged |= inner
        code += files
    merged |= settings
    modules = {function.module.resolve() for function in _functions(merged)}
    return merged, code + sorted(module for module in modules if module.is_file())


def _load(path: Path) -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        pass

    def function(loader: Any, node: Any) -> _Function:
        return _Function(loader.construct_scalar(node), path.parent)

    Loader.add_constructor("!function", function)
    try:
        settings = yaml.load(path.read_text("utf-8"), Loader)
    except FileNotFoundError:
        raise ConfigError([f"evaluation.tasks: {path} does not exist."]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = one_line(error)
        raise ConfigError([f"evaluation.tasks: {path}: cannot be read: {reason}."]) from None
    if not isinstance(settings, dict):
        raise ConfigError([f"evaluation.tasks: {path}: is no task; it holds no keys and values."])
    return settings


def _functions(value: Any) -> Iterator[_Function]:
    if isinstance(value, _Function):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _functions(item)


def _data_files(path: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """Yield the local files of the data set; ConfigError where one does not exist."""
    kwargs = absolute_data(path.parent, settings.get("dataset_kwargs") or {})
    names = [*_texts(kwargs.get("data_files")), *_texts(kwargs.get("data_dir"))]
    folder = path.parent / str(settings.get("dataset_path") or "")
    if settings.get("dataset_path") and folder.is_dir():
        names.append(str(folder))
    for name in filter(_is_local, names):
        files = _files(Path(name))
        if not files:
            raise ConfigError(
                [f"evaluation.tasks: {path}: its data file {name} does not exist; correct it."]
            )
        yield from files


def _files(path: Path) -> list[Path]:
    """The file, the files below a directory, or those of a pattern."""
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)

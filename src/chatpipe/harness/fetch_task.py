"""A task with its data: what of lm-evaluation-harness is evaluated, by content."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.yaml_files import is_yaml
from chatpipe.errors import ConfigError, SourceError
from chatpipe.harness.answer_length import NEW_TOKENS
from chatpipe.harness.source_files import TaskFiles, absolute_data, task_files
from chatpipe.store.artifact import Request
from chatpipe.utils.user_paths import expanded

INDEX, DATA, SOURCE = "task.json", "data", "source"


def missing_extra(tasks: tuple[str, ...]) -> str | None:
    """Return a sentence if tasks are to be evaluated and the harness is not installed."""
    if not tasks or importlib.util.find_spec("lm_eval"):
        return None
    return (
        "evaluation.tasks: lm-evaluation-harness is not installed; pip install 'chatpipe[tasks]'."
    )


def task_name(task: str) -> str:
    """What a person calls it: the harness's name, or the file's."""
    return Path(task).name if is_yaml(task) else task


class FetchTask(Request):
    """What an item of `evaluation.tasks` stands for: one task, or several under one name."""

    kind: ClassVar[str] = "task"
    version: ClassVar[int] = 1
    hash_exclude: ClassVar[frozenset[str]] = frozenset({"path"})

    harness: str  # its version: it brings the tasks of its names, and the metrics of all
    name: str | None = None
    path: str | None = None
    content: str | None = None  # digest of the file and of all that it names

    @classmethod
    def of(cls, task: str) -> FetchTask:
        """Return the request for the task of that name or file; ConfigError where it does not
        exist."""
        try:
            harness = version("lm_eval")
        except PackageNotFoundError:
            raise ConfigError([str(missing_extra((task,)))]) from None
        if not is_yaml(task):  # one of the harness's names
            return cls(harness=harness, name=task)
        files = task_files(expanded(task))
        return cls(harness=harness, path=str(files.yaml), content=_content(files))

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe.harness.loading import most_new_tokens, store_data

        index: dict[str, Any] = {"harness": self.harness}
        if self.path is None:
            tasks = self._named(index)
        else:
            tasks = self._of_file(Path(self.path), into, index)
        rows = {name: store_data(task, into / DATA) for name, task in tasks.items()}
        (into / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True), "utf-8")
        lengths = {name: most_new_tokens(task) for name, task in tasks.items()}
        answered = {name: most for name, most in lengths.items() if most is not None}
        return {"tasks": rows, NEW_TOKENS: answered}

    def _named(self, index: dict[str, Any]) -> dict[str, Any]:
        from chatpipe.harness.loading import named_task

        tasks, files = named_task(str(self.name), _downloader(None))
        index |= {"name": self.name, "files": files}
        return tasks

    def _of_file(self, path: Path, into: Path, index: dict[str, Any]) -> dict[str, Any]:
        from chatpipe.harness.loading import task_of_file

        files = task_files(path)
        for file in files.code:
            copy = into / SOURCE / file.relative_to(files.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        index["file"] = str(Path(SOURCE) / path.relative_to(files.root))
        tasks = task_of_file(into / index["file"], _downloader(path.parent))
        if _content(task_files(path)) != self.content:
            raise SourceError.changed(path)
        return tasks


def _content(files: TaskFiles) -> str:
    return hashlib.sha256(json.dumps(files.digests()).encode()).hexdigest()


def _downloader(folder: Path | None) -> Any:
    """Return a `download` of the harness's tasks: never with remote code; paths of local files are
    relative to the task's folder."""

    def download(task: Any, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        import datasets

        kwargs = {k: v for k, v in (dataset_kwargs or {}).items() if k != "trust_remote_code"}
        place = task.config.dataset_path
        if folder is not None:
            kwargs = absolute_data(folder, kwargs)
            place = str(folder / place) if (folder / str(place)).is_dir() else place
        if callable(task.config.custom_dataset):
            task.dataset = task.config.custom_dataset(**(task.config.metadata or {}), **kwargs)
        else:
            task.dataset = datasets.load_dataset(
                path=place, name=task.config.dataset_name, **kwargs
            )

    return download

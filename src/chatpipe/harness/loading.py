"""The harness's task objects: made of its own files or ours, with data that are downloaded once."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq

from chatpipe.errors import ChatpipeError, ConfigError, SourceError
from chatpipe.utils.sentences import one_line

Tasks = dict[str, Any]  # name -> lm_eval's Task
Download = Callable[..., None]

# What `written_ids` can do of generation_kwargs.
GENERATION = frozenset(
    {
        *("until", "do_sample", "temperature", "top_p"),
        *("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"),
    }
)
SEEDS = (0, 1234)  # the harness's defaults: of `random`; of numpy, torch and few-shot examples


def named_task(name: str, download: Download) -> tuple[Tasks, list[str]]:
    """Return the tasks that one of the harness's names (of a task, group or tag) stands for, and
    the YAML files that they are made of, below its directory of tasks.

    All of its 14,000 files are read to find them, which takes half a minute.
    """
    from lm_eval.tasks import TaskManager

    registry = _Registry(TaskManager().task_index)
    if name not in registry:
        raise ConfigError(
            [
                f"evaluation.tasks: {name} is no task of lm-evaluation-harness; `lm-eval ls tasks` "
                "lists them, and a file of your own ends with .yaml."
            ]
        )
    tasks = _built(registry[name], registry, name, download)
    files = {entry.yaml_path for entry in registry.used if entry.yaml_path}
    return tasks, sorted(str(file.relative_to(_harness_folder())) for file in files)


def tasks_of_files(name: str, files: list[str], download: Download) -> Tasks:
    """Return what `named_task` returned, from those files alone."""
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    registry: dict[str, Any] = {}
    for file in files:
        path = _harness_folder() / file
        TaskIndex.process_cfg(load_yaml(path, resolve_func=False), path, registry)
    return _built(registry[name], registry, name, download)


def task_of_file(path: Path, download: Download) -> Tasks:
    """Return the task of a YAML file."""
    from lm_eval.tasks._index import TaskIndex

    return _built(TaskIndex.entry_from_path(path), {}, path.name, download)


def stored_data(folder: Path) -> Download:
    """Return a `download` that reads what `store_data` wrote there."""

    def download(task: Any, *_: Any, **__: Any) -> None:
        files = sorted((folder / _folder_name(task)).glob("*.parquet"))
        task.dataset = {file.stem: datasets.Dataset(pq.read_table(file)) for file in files}

    return download


def store_data(task: Any, folder: Path) -> dict[str, int]:
    """Write the splits that the task uses; return the rows of each."""
    config = task.config
    fewshot = getattr(config.fewshot_config, "split", None)
    splits = (config.training_split, config.validation_split, config.test_split, fewshot)
    into = folder / _folder_name(task)
    into.mkdir(parents=True)
    rows = {}
    for split in dict.fromkeys(filter(None, splits)):
        data = task.dataset[split].with_format(None)
        table = data.data.table if data._indices is None else data.flatten_indices().data.table
        features = {"info": {"features": data.features.to_dict()}}  # and no fingerprint
        metadata = {"huggingface": json.dumps(features, sort_keys=True)}
        pq.write_table(table.replace_schema_metadata(metadata), into / f"{split}.parquet")
        rows[split] = len(data)
    return rows


def _folder_name(task: Any) -> str:
    return str(task.config.task).replace("/", "_")


def _harness_folder() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


class _Registry(dict[str, Any]):
    """An index of the harness that notes which of its entries are used."""

    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.used: list[Any] = []

    def __getitem__(self, name: str) -> Any:
        entry = super().__getitem__(name)
        self.used.append(entry)
        return entry


def _built(entry: Any, registry: dict[str, Any], name: str, download: Download) -> Tasks:
    """Build an entry's tasks, as `lm_eval` does without options."""
    from lm_eval.tasks._factory import TaskFactory

    _seed()
    with _restricted(download):
        try:
            built = TaskFactory().build(entry, overrides=None, registry=registry)
        except ChatpipeError:
            raise
        except Exception as error:
            reason = one_line(error) or type(error).__name__
            raise SourceError(f"evaluation.tasks: {name} cannot be loaded: {reason}") from error
    tasks = {task.config.task: task for task in _leaves(built)}
    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEEDS[1])
    return tasks


def _leaves(built: Any) -> list[Any]:
    if isinstance(built, list):
        return built
    return built.get_all_tasks() if hasattr(built, "get_all_tasks") else [built]


def _seed() -> None:
    import torch

    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    torch.manual_seed(SEEDS[1])


@contextmanager
def _restricted(download: Download) -> Iterator[None]:
    """While this lasts, the harness's tasks get their data from `download`, a task that would run
    foreign code is refused, and no bytecode is written beside modules of tasks."""
    import lm_eval.api.task as harness

    original = harness.ConfigurableTask.download, harness.get_metric, sys.dont_write_bytecode

    def checked(task: Any, *args: Any, **kwargs: Any) -> None:
        check_task(task)
        download(task, *args, **kwargs)

    harness.ConfigurableTask.download = checked
    harness.get_metric = _registered_metric
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        (harness.ConfigurableTask.download, harness.get_metric, sys.dont_write_bytecode) = original


def _registered_metric(name: str, hf_evaluate_metric: bool = False) -> Any:
    """A metric of the harness. Others are code that the hub would send."""
    import lm_eval.api.metrics  # noqa: F401  (registers them)
    from lm_eval.api.registry import metric_registry

    if hf_evaluate_metric or name not in metric_registry:
        raise ConfigError(
            [
                f"evaluation.tasks: the metric {name} is none of lm-evaluation-harness, but Python "
                "code of the hub, which is not run; take a task with another metric."
            ]
        )
    return metric_registry.get(name)


def most_new_tokens(task: Any) -> int | None:
    """Return how many tokens an answer to the task may have; None where nothing is generated."""
    from lm_eval.models.utils import normalize_gen_kwargs

    if task.config.output_type != "generate_until":
        return None
    return int(normalize_gen_kwargs(task.config.generation_kwargs or {})["max_gen_toks"])


def check_task(task: Any) -> None:
    """Raise ConfigError for a task that is not run here."""
    config = task.config
    name = f"evaluation.tasks: {config.task}"
    if config.unsafe_code:
        raise ConfigError(
            [f"{name} runs code that a model wrote (unsafe_code), which is refused; leave it out."]
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(
            [f"{name} shows images or sound, and models here read text; leave it out."]
        )
    unknown = {
        key: value
        for key, value in (config.generation_kwargs or {}).items()
        if key not in GENERATION and (key, value) != ("num_beams", 1)
    }
    if config.output_type == "generate_until" and unknown:
        raise ConfigError(
            [
                f"{name}: generation_kwargs has {', '.join(sorted(unknown))}, which is not "
                f"supported; {', '.join(sorted(GENERATION))} are."
            ]
        )

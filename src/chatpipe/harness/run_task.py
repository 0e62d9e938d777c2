"""A model's answers to the items of a task, each with the task's own metrics."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.config.schema import Quantization, Variant
from chatpipe.errors import ConfigError, ModelError
from chatpipe.harness.fetch_task import DATA, INDEX
from chatpipe.models.model_ref import ModelRef
from chatpipe.store.artifact import Artifact, Request

ITEMS, RESULTS = "items.parquet", "results.json"
COLUMNS = pa.schema(
    [
        ("task", pa.string()),
        ("id", pa.string()),
        ("metric", pa.string()),
        ("scale", pa.string()),
        ("value", pa.float64()),
        ("weight", pa.float64()),
        ("response", pa.string()),
    ]
)


class RunTask(Request):
    """One model on what one item of `evaluation.tasks` stands for; no adapter: the base itself."""

    kind: ClassVar[str] = "task-scores"
    version: ClassVar[int] = 1
    oom_hint: ClassVar[str] = "lower evaluation.batch_tokens"

    base: Artifact
    adapter: Artifact | None
    task: Artifact
    quantization: Quantization
    batch_tokens: int

    @classmethod
    def of(cls, variant: Variant, model: ModelRef, task: Artifact) -> RunTask:
        """Return the request for that model on that task, with the variant's settings."""
        return cls(
            base=model.base,
            adapter=model.adapter,
            task=task,
            quantization=variant.quantization,
            batch_tokens=variant.evaluation.batch_tokens,
        )

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe.models import devices, inference, loading

        started = time.monotonic()
        tasks = self._tasks()
        tokenizer = loading.load_tokenizer(self.base.path)
        adapters = [self.adapter] if self.adapter else []
        with inference.recorded_model(self.base, adapters, self.quantization) as (model, details):
            results, cut_contexts = self._evaluated(model, tokenizer, tasks)
        rows = [row for name, task in tasks.items() for row in _rows(task, results, name)]
        pq.write_table(pa.Table.from_pylist(rows, COLUMNS), into / ITEMS)
        described = _described(tasks, results)
        (into / RESULTS).write_text(json.dumps(described, indent=1, sort_keys=True), "utf-8")
        return {
            "device": devices.device_name(),
            "wall_s": round(time.monotonic() - started, 3),
            "items": {name: len(task.eval_docs) for name, task in tasks.items()},
            "cut_contexts": cut_contexts,
            **details,
        }

    def _tasks(self) -> dict[str, Any]:
        """Return the harness's tasks, with the stored data."""
        from chatpipe.harness.loading import stored_data, task_of_file, tasks_of_files

        index = json.loads((self.task.path / INDEX).read_text("utf-8"))
        if index["harness"] != version("lm_eval"):
            raise ConfigError(
                [
                    f"evaluation.tasks: the task was stored with lm-eval {index['harness']}, and "
                    f"{version('lm_eval')} is installed here; install the same version everywhere."
                ]
            )
        download = stored_data(self.task.path / DATA)
        if "file" in index:
            return task_of_file(self.task.path / index["file"], download)
        return tasks_of_files(index["name"], index["files"], download)

    def _evaluated(
        self, model: Any, tokenizer: Any, tasks: dict[str, Any]
    ) -> tuple[dict[str, Any], int]:
        """(what lm_eval's evaluate returns, how many contexts were cut)."""
        from lm_eval.evaluator import evaluate

        from chatpipe.harness.language_model import PackedModel

        language_model = PackedModel(model, tokenizer, self.batch_tokens)
        results = evaluate(
            lm=language_model, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0
        )
        if results is None:
            raise ModelError("lm-evaluation-harness gave no results.")
        return results, language_model.cut_contexts


def _rows(task: Any, results: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield a line for each item and metric; value and weight only of a metric that is a mean of
    items: Σ value / Σ weight is the figure, or its logarithm."""
    for sample in results["samples"][name]:
        response = json.dumps(sample["filtered_resps"], ensure_ascii=False, default=str)
        for metric in sample["metrics"]:
            scale = _scale(task, metric)
            value, weight = _value_and_weight(sample[metric], scale)
            label = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            yield {
                "task": name,
                "id": f"{sample['doc_id']}:{sample['doc_hash'][:16]}",
                "metric": label,
                "scale": scale,
                "value": value,
                "weight": weight,
                "response": response,
            }


def _scale(task: Any, metric: str) -> str:
    """How the harness makes a figure of the items: "mean", "log" (the exponential of a mean of
    nats), "bits" (a mean of nats, in bits) or "all" (of all items together)."""
    from lm_eval.api import metrics

    scales = {
        metrics.mean: "mean",
        metrics.perplexity: "log",
        metrics.weighted_perplexity: "log",
        metrics.bits_per_byte: "bits",
    }
    return scales.get(task.aggregation().get(metric, metrics.mean), "all")


def _value_and_weight(item: Any, scale: str) -> tuple[float | None, float | None]:
    if scale == "all":
        return None, None
    if scale == "mean":
        return float(item), 1.0
    likelihood, weight = item if isinstance(item, tuple | list) else (item, 1)
    return -float(likelihood) / (math.log(2) if scale == "bits" else 1), float(weight)


def _described(tasks: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """What the harness says of every task: its figures, and which are better when higher."""
    return {
        name: {
            "figures": {
                key: value
                for key, value in results["results"][name].items()
                if isinstance(value, int | float) and "stderr" not in key
            },
            "higher_is_better": {
                metric: bool(higher)
                for metric, higher in task.higher_is_better().items()
                if higher is not None
            },
        }
        for name, task in tasks.items()
    }

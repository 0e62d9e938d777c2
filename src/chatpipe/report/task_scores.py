"""Figures other than those of held-out likelihoods: measures of replies to held-out rows and
results of tasks, each with its difference from the base."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from chatpipe.formats.base import counted_reasons
from chatpipe.generation.replies import FILE as REPLIES
from chatpipe.harness.fetch_task import task_name
from chatpipe.harness.run_task import ITEMS, RESULTS, RunTask
from chatpipe.report.configurations import configurations
from chatpipe.report.measured import Measured
from chatpipe.report.schema import TaskScore
from chatpipe.statistics import Comparison, NoiseModel, PairedRows, Run, compare
from chatpipe.statistics.shares import wilson
from chatpipe.utils.unique import unique_by

# What of a variant changes no reply.
WITHOUT_EFFECT = {"name", "panel", "tracking", "train_together", "paper_reported"}
# Measure of a reply -> whether higher is better; None where neither is.
REPLY_MEASURES = {
    "exact_match": True,
    "rouge_l": True,
    "chrf": True,
    "characters": None,
    "ends": True,
}
SHARES = {"exact_match", "ends"}

Groups = Mapping[str, Sequence[Measured]]


class Subject(NamedTuple):
    """What is measured, and on what."""

    source: str
    task: str
    metric: str
    higher_is_better: bool | None

    @property
    def is_share(self) -> bool:
        """Whether it is a share of items, where every item has 0 or 1."""
        return self.source == "task" or self.metric in SHARES


def task_scores(models: Sequence[Measured]) -> tuple[list[TaskScore], list[str]]:
    """Return every measure of every configuration, beside its base; and why some are missing."""
    scores: list[TaskScore] = []
    notes = [note for model in models for note in (*_unanswered(model), *_cut(model))]
    compared = ((_reply_runs, [m for m in models if m.replies]), (_task_runs, _with_tasks(models)))
    for runs_of, measured in compared:
        groups = _groups(measured)
        runs: dict[Subject, list[Run]] = {}
        for name, group in groups.items():
            for model in unique_by(group, _seed):  # the same training may have two names
                for subject, run in runs_of(name, model):
                    runs.setdefault(subject, []).append(run)
        for subject, of_subject in runs.items():
            try:
                scores += _scores(subject, groups, of_subject)
            except ValueError as error:
                notes.append(f"{subject.metric} on {subject.task}: not compared, because {error}.")
    return scores, list(dict.fromkeys(notes + list(_of_all_items(models))))


def _with_tasks(models: Sequence[Measured]) -> list[Measured]:
    """Return the models with tasks. A task is asked without any template, so a base in its own chat
    template would be there twice."""
    bases = {model.base_model for model in models if model.adapter}
    return [m for m in models if m.tasks and (m.adapter or m.name in bases or not bases)]


def _groups(models: Sequence[Measured]) -> dict[str, Sequence[Measured]]:
    """Return the bases, each by itself, and the variants in groups that differ by seed alone."""
    bases = {model.name: [model] for model in models if model.adapter is None}
    return {**bases, **configurations([m for m in models if m.adapter], WITHOUT_EFFECT)}


def _reply_runs(name: str, model: Measured) -> Iterator[tuple[Subject, Run]]:
    """Yield a model's values of the rows that it answered, for each set and measure."""
    for dataset, artifact in model.replies.items():
        table = pq.read_table(artifact.path / REPLIES)
        if not table.num_rows:
            continue
        ids = table["id"].to_numpy().astype(str)
        for metric, higher in REPLY_MEASURES.items():
            values = table[metric].to_numpy().astype(np.float64)
            run = Run(name, _seed(model), ids, values, np.ones_like(values))
            yield Subject("replies", dataset, metric, higher), run


def _task_runs(name: str, model: Measured) -> Iterator[tuple[Subject, Run]]:
    """Yield a model's values of the items of tasks, for each metric that is a mean of items."""
    for artifact in model.tasks.values():
        described = json.loads((artifact.path / RESULTS).read_text("utf-8"))
        items = pq.read_table(artifact.path / ITEMS).to_pandas().dropna(subset=["value"])
        for (task, metric, scale), rows in items.groupby(["task", "metric", "scale"], sort=False):
            higher = described[task]["higher_is_better"].get(metric.partition(",")[0])
            run = Run(
                name,
                _seed(model),
                rows["id"].to_numpy(str),
                rows["value"].to_numpy(np.float64),
                rows["weight"].to_numpy(np.float64),
            )
            yield Subject("task", task, f"log {metric}" if scale == "log" else metric, higher), run


def _seed(model: Measured) -> int | None:
    return model.variant.training.seed if model.adapter else None


def _scores(subject: Subject, groups: Groups, runs: Sequence[Run]) -> Iterator[TaskScore]:
    """Yield a configuration's mean over rows and seeds, with its difference from its base."""
    rows = PairedRows.of(runs)
    noise = NoiseModel.of(rows)
    lows, highs = noise.intervals()
    if subject.is_share and np.isin(rows.nats, (0, 1)).all():
        # Of items that are all alike, a variance says nothing.
        alike = noise.values == np.round(noise.values)
        ends = np.array([wilson(value, len(rows)) for value in noise.values])
        lows, highs = (
            np.where(alike, end, other) for end, other in zip(ends.T, (lows, highs), strict=True)
        )
    bases = {name: groups[name][0].base_model for name in noise.configurations}
    pairs = [(n, base) for n, base in bases.items() if base in noise.configurations and n != base]
    differences = {pair.first: pair for pair in compare(noise, pairs)}
    for place, name in enumerate(noise.configurations):
        yield TaskScore(
            **subject._asdict(),
            configuration=name,
            models=[model.name for model in groups[name]],
            value=float(noise.values[place]),
            low=_number(lows[place]),
            high=_number(highs[place]),
            rows=len(rows),
            left_out=rows.left_out,
            **_difference(differences.get(name), subject.higher_is_better),
        )


def _difference(pair: Comparison | None, higher_is_better: bool | None) -> dict[str, object]:
    if pair is None:
        return {}
    verdicts = {"better": "worse", "worse": "better"} if higher_is_better else {}
    verdict = verdicts.get(pair.verdict, pair.verdict)
    if higher_is_better is None and verdict != "not distinguishable":
        verdict = "higher" if pair.value > 0 else "lower"
    return {
        "base": pair.second,
        "difference": pair.value,
        "difference_low": pair.low,
        "difference_high": pair.high,
        "corrected_p": pair.corrected_p,
        "verdict": verdict,
        "seed_noise": pair.seed_noise,
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _unanswered(model: Measured) -> Iterator[str]:
    """Yield a sentence for each held-out set of which rows were left unanswered."""
    for dataset, artifact in model.replies.items():
        left_out = artifact.details()["left_out"]
        if left_out:
            yield (
                f"replies to {dataset}: {model.name} left {sum(left_out.values()):,} of "
                f"{model.variant.evaluation.replies:,} rows unanswered "
                f"({counted_reasons(left_out)})."
            )


def _cut(model: Measured) -> Iterator[str]:
    """Yield a sentence for each task of which texts were too long."""
    for task, artifact in model.tasks.items():
        if cut := artifact.details()["cut_contexts"]:
            yield (
                f"task {task_name(task)}: {cut:,} texts are longer than {model.base_model} reads, "
                "and were cut at their left, as lm-evaluation-harness does."
            )


def _of_all_items(models: Sequence[Measured]) -> Iterator[str]:
    """Yield a sentence for each metric of a task that is no mean of items."""
    for artifact in (artifact for model in models for artifact in model.tasks.values()):
        items = pq.read_table(artifact.path / ITEMS, filters=[("scale", "=", "all")])
        for task, metric in dict.fromkeys(
            zip(items["task"].to_pylist(), items["metric"].to_pylist(), strict=True)
        ):
            yield (
                f"task {task}: {metric} is of all items together, so it has no interval and is not "
                f"compared; results.json of the {RunTask.kind} in the store has it."
            )

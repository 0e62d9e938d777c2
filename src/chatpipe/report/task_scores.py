"""Figures other than likelihoods: measures of replies to held-out rows, each with its difference
from the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from chatpipe.generation.replies import FILE
from chatpipe.report.configurations import configurations
from chatpipe.report.measured import Measured
from chatpipe.report.schema import TaskScore
from chatpipe.statistics import Comparison, NoiseModel, PairedRows, Run, compare

# What of a variant changes no reply.
WITHOUT_EFFECT = {"name", "panel", "tracking", "paper_reported"}
# Measure of a reply -> whether higher is better; None where neither is.
REPLY_MEASURES = {
    "exact_match": True,
    "rouge_l": True,
    "chrf": True,
    "characters": None,
    "ends": True,
}

Groups = Mapping[str, Sequence[Measured]]


class Subject(NamedTuple):
    """What is measured, and on what."""

    source: str
    task: str
    metric: str
    higher_is_better: bool | None


def task_scores(models: Sequence[Measured]) -> tuple[list[TaskScore], list[str]]:
    """Return every measure of every configuration, beside its base; and why some are missing."""
    scores: list[TaskScore] = []
    notes: list[str] = []
    groups = _groups([model for model in models if model.replies])
    for dataset in dict.fromkeys(name for model in models for name in model.replies):
        notes += _unanswered(models, dataset)
        for metric, higher in REPLY_MEASURES.items():
            subject = Subject("replies", dataset, metric, higher)
            runs = list(_reply_runs(groups, dataset, metric))
            try:
                scores += _scores(subject, groups, runs)
            except ValueError as error:
                notes.append(f"replies to {dataset}: {metric} is not compared, because {error}.")
    return scores, notes


def _groups(models: Sequence[Measured]) -> dict[str, Sequence[Measured]]:
    """Return the bases, each by itself, and the variants in groups that differ by seed alone."""
    bases = {model.name: [model] for model in models if model.adapter is None}
    return {**bases, **configurations([m for m in models if m.adapter], WITHOUT_EFFECT)}


def _reply_runs(groups: Groups, dataset: str, metric: str) -> Iterator[Run]:
    """Yield every model's values of the rows that it answered."""
    for name, group in groups.items():
        for model in group:
            file = model.replies[dataset].path / FILE
            table = pq.read_table(file, columns=["id", metric])
            values = table[metric].to_numpy().astype(np.float64)
            seed = model.variant.training.seed if model.adapter else None
            ids = table["id"].to_numpy().astype(str)
            if len(ids):
                yield Run(name, seed, ids, values, np.ones_like(values))


def _scores(subject: Subject, groups: Groups, runs: Sequence[Run]) -> Iterator[TaskScore]:
    """Yield a configuration's mean over rows and seeds, with its difference from its base."""
    if not runs:
        return
    rows = PairedRows.of(runs)
    noise = NoiseModel.of(rows)
    lows, highs = noise.intervals()
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


def _unanswered(models: Sequence[Measured], dataset: str) -> Iterator[str]:
    """Yield a sentence for each model that left rows of the set unanswered."""
    for model in models:
        artifact = model.replies.get(dataset)
        left_out = artifact.details()["left_out"] if artifact else {}
        if left_out:
            reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in left_out.items())
            yield (
                f"replies to {dataset}: {model.name} left {sum(left_out.values()):,} of "
                f"{model.variant.evaluation.replies:,} rows unanswered ({reasons})."
            )

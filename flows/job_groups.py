"""Jobs in groups: those that load the same base are done one after another, by one process."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chatpipe.study.recipe import Job
from chatpipe.training.finetune import Finetune
from flows.gpu_steps import GpuRequest


def grouped_by_base(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs, those together that load the same base, quantized alike."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        request = job.steps[0].request
        assert isinstance(request, GpuRequest)
        base = (request.base.digest, request.quantization.model_dump_json())
        groups.setdefault(base, []).append(job)
    return list(groups.values())


def for_workers(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """Return groups of jobs that as many workers can do at once.

    A training loads its base in a process of its own, so each is a group. Other jobs with the same
    base are one group, which is divided where workers would have nothing to do.
    """
    trainings = [job for job in jobs if _is_training(job)]
    others = [job for job in jobs if not _is_training(job)]
    most = max(1, math.ceil(len(others) / workers))
    parts = [
        group[start : start + most]
        for group in grouped_by_base(others)
        for start in range(0, len(group), most)
    ]
    return [*([job] for job in trainings), *parts]


def without_repeats(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs without steps that an earlier one has: two workers would build the same."""
    keys: set[str] = set()
    remaining: list[Job] = []
    for job in jobs:
        fresh = {step.request.key(): step for step in job.steps}
        unrepeated = tuple(step for key, step in fresh.items() if key not in keys)
        remaining.append(job._replace(steps=unrepeated))
        keys |= fresh.keys()
    return remaining


def _is_training(job: Job) -> bool:
    return isinstance(job.steps[0].request, Finetune)

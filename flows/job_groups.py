"""Jobs in groups: those that load the same base are done one after another, by one process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from chatpipe.study.resolving import Job
from chatpipe.training.finetune import Finetune
from chatpipe.training.grouping import have_settings_in_common, largest_group
from chatpipe.training.rows import optimizer_steps
from flows.gpu_steps import GpuRequest


def grouped_by_base(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs, those together that load the same base, quantized alike; of trainings the
    longest first, because it stores those that it is computed along with when they are done."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        request = job.steps[0].request
        assert isinstance(request, GpuRequest)
        base = (request.base.digest, request.quantization.model_dump_json())
        groups.setdefault(base, []).append(job)
    return [sorted(group, key=_optimizer_steps, reverse=True) for group in groups.values()]


def _optimizer_steps(job: Job) -> int:
    """Return the steps of a training, before rows that are too long are left out; 0 of others."""
    request = job.steps[0].request
    if not isinstance(request, Finetune):
        return 0
    return optimizer_steps(request.training, int(request.corpus.details()["train_rows"]))


def for_workers(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """Return groups of jobs that as many workers can do at once.

    Trainings that may be computed together are one group, and other jobs with the same base, too;
    each is divided where workers would have nothing to do.
    """
    trainings = [job for job in jobs if _is_training(job)]
    others = [job for job in jobs if not _is_training(job)]
    most = max(1, math.ceil(len(others) / workers))
    parts = [
        group[start : start + most]
        for group in grouped_by_base(others)
        for start in range(0, len(group), most)
    ]
    return [*_training_groups(trainings, workers), *parts]


def _training_groups(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """Return the trainings, those together that one worker may compute together."""
    groups: list[list[Job]] = []
    for job in itertools.chain(*grouped_by_base(jobs)):
        group = next((group for group in groups if _may_join(job, group[0])), None)
        if group:
            group.append(job)
        else:
            groups.append([job])
    divided = []
    for group in groups:
        largest = largest_group(_training(group[0]))
        parts = max(min(workers, len(group)), math.ceil(len(group) / largest))
        divided += [group[part::parts] for part in range(parts)]
    return divided


def _may_join(job: Job, other: Job) -> bool:
    return have_settings_in_common(_training(job), _training(other))


def _training(job: Job) -> Finetune:
    request = job.steps[0].request
    assert isinstance(request, Finetune)
    return request


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

"""Which variants of a study are trained together, and what each group needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError
from chatpipe.models.memory import MemoryEstimate
from chatpipe.models.passes import StepRows, largest_pass
from chatpipe.models.placement import fit
from chatpipe.planning.capacity import rows_of_a_planned_step
from chatpipe.planning.cost import measured_rate
from chatpipe.planning.result import Plan
from chatpipe.planning.steps import DryRun
from chatpipe.study.recipe import Recipe
from chatpipe.study.selection import first_seeds
from chatpipe.training.finetune import Finetune
from chatpipe.training.grouping import groups, shared_pass_fault, trainings_at_once
from chatpipe.training.rows import optimizer_steps


class TrainingGroup(BaseModel):
    """Trainings that share their passes through the base.

    Attributes:
        variants: Their names.
        tokens: Of all of them.
        seconds: Of all of them: at the rate of the newest adapter that was trained with others, or
            one after another, where there is none; together they take that long or less.
        is_upper_bound: Whether `seconds` are those one after another.
        memory: The peak while all of them are trained.
    """

    model_config = ConfigDict(frozen=True)

    variants: tuple[str, ...]
    tokens: int | None
    seconds: float | None
    is_upper_bound: bool
    memory: MemoryEstimate | None


class Grouping(NamedTuple):
    """The groups of a study, and why trainings that the settings let share passes do not."""

    groups: tuple[TrainingGroup, ...]
    notes: tuple[str, ...]


def plan_groups(variants: Sequence[Variant], plans: Mapping[str, Plan]) -> Grouping:
    """Return the groups in which a run of these variants on this machine trains those that are not
    in the store.

    plans: by the variants' names.
    """
    first = {variant.name for variant in first_seeds(variants)}
    requests = _requests(variants, plans)
    made: list[TrainingGroup] = []
    faults: dict[str, None] = {}
    for is_first in (True, False):  # a run trains the first seeds before all others
        names = [name for name in requests if (name in first) is is_first]
        for group in _groups(names, requests, plans):
            fault = _fault(group[0], requests, plans)
            if fault:
                faults[f"{group[0]} and others are trained one after another: {fault}."] = None
            else:
                made.append(_planned(group, requests, plans))
    return Grouping(tuple(made), tuple(faults))


def _requests(variants: Sequence[Variant], plans: Mapping[str, Plan]) -> dict[str, Finetune]:
    """Return the trainings to come by the variants' names, the longest first, as a run has them."""
    recipe = Recipe(variants, DryRun())
    requests: dict[str, Finetune] = {}
    steps: dict[str, int] = {}
    for variant in variants:
        plan = plans[variant.name]
        if not plan.trained and not plan.faults:
            with suppress(ChatpipeError):  # what is wrong is a fault of the plan's
                requests[variant.name] = recipe.finetune(variant)
                steps[variant.name] = optimizer_steps(variant.training, plan.data.train_rows)
    return {name: requests[name] for name in sorted(requests, key=steps.__getitem__, reverse=True)}


def _groups(
    names: Collection[str], requests: Mapping[str, Finetune], plans: Mapping[str, Plan]
) -> list[list[str]]:
    """Return the names of those that are trained together; a variant with the settings of another
    one has the same training."""
    by_request = {requests[name].model_dump_json(): name for name in reversed([*names])}
    unique = [name for name in names if name in by_request.values()]

    def at_once(request: Finetune) -> int:
        plan = plans[by_request[request.model_dump_json()]]
        return trainings_at_once(request, plan.shapes, plan.device)

    made = groups([requests[name] for name in unique], at_once)
    named = [[by_request[request.model_dump_json()] for request in group] for group in made]
    return [group for group in named if len(group) > 1]


def _fault(name: str, requests: Mapping[str, Finetune], plans: Mapping[str, Plan]) -> str | None:
    shapes = plans[name].shapes
    return None if shapes is None else shared_pass_fault(requests[name], shapes, plans[name].device)


def _planned(
    names: Sequence[str], requests: Mapping[str, Finetune], plans: Mapping[str, Plan]
) -> TrainingGroup:
    durations = [plans[name].duration for name in names]
    estimated = [duration for duration in durations if duration]
    is_complete = len(estimated) == len(names)
    tokens = sum(duration.tokens for duration in estimated)
    seconds = sum(duration.seconds for duration in estimated)
    rate = measured_rate(plans[names[0]].device, requests[names[0]].base, together=True)
    if rate:
        seconds = tokens / rate.tokens_per_s
    return TrainingGroup(
        variants=tuple(names),
        tokens=tokens if is_complete else None,
        seconds=seconds if is_complete else None,
        is_upper_bound=rate is None,
        memory=_memory(names, requests, plans),
    )


def _memory(
    names: Sequence[str], requests: Mapping[str, Finetune], plans: Mapping[str, Plan]
) -> MemoryEstimate | None:
    shapes, device = plans[names[0]].shapes, plans[names[0]].device
    if shapes is None:
        return None
    request = requests[names[0]]
    rows = StepRows.together(
        [rows_of_a_planned_step(requests[name].training, plans[name].tokens) for name in names]
    )
    return fit(shapes, request, largest_pass(shapes, request, rows, device), device)

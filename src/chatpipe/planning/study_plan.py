"""What a whole study would cost: the plans of its cells, and their sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Variant
from chatpipe.planning.cost import Need
from chatpipe.planning.group_plan import TrainingGroup, plan_groups
from chatpipe.planning.planner import plan_each
from chatpipe.planning.result import Plan
from chatpipe.planning.steps import PlannedStep
from chatpipe.study.selection import select

Number = TypeVar("Number", int, float)


class Cost(BaseModel):
    """What several trainings need together; None where that of one is not known.

    Attributes:
        trainings: How many there are.
        tokens: Of all trainings.
        seconds: Of all trainings, one after another.
        memory_bytes: Of the largest one, or of the largest group that is trained together.
        disk_bytes: Of all adapters and their checkpoints, and of what the trainings share, once.
        download_bytes: To be fetched, once for all.

    What trainings before them also need (bases, data sets) is written and fetched by those.
    """

    model_config = ConfigDict(frozen=True)

    trainings: int
    tokens: int | None
    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int
    download_bytes: int | None

    @classmethod
    def of(
        cls,
        plans: Sequence[Plan],
        before: Sequence[Plan] = (),
        groups: Sequence[TrainingGroup] = (),
    ) -> Cost:
        """Sum up the plans of which the adapter is not in the store.

        before: the plans of what is run before them. groups: those that are trained together.
        """
        plans, before = ([plan for plan in all_ if not plan.trained] for all_ in (plans, before))
        estimates = [*(plan.memory for plan in plans), *(group.memory for group in groups)]
        memory = [estimate.total if estimate else None for estimate in estimates]
        return cls(
            trainings=len(plans),
            tokens=_sum((plan.duration.tokens if plan.duration else None for plan in plans), 0),
            seconds=_sum((plan.duration.seconds if plan.duration else None for plan in plans), 0.0),
            memory_bytes=None if None in memory else max((size or 0 for size in memory), default=0),
            disk_bytes=_disk_bytes(plans, before),
            download_bytes=_download_bytes(plans, before),
        )


class StudyPlan(BaseModel):
    """The plans of a study's variants.

    Attributes:
        trained: How many adapters are in the store.
        total: The cost of all trainings to come.
        limit: How many of these are run now; None for all.
        now: The cost of those.
        left: The cost of those that are left for later, beyond what these have written and fetched.
        groups: Which of those that are run now are trained together.
        notes: Why others are not.
    """

    model_config = ConfigDict(frozen=True)

    study: str
    plans: tuple[Plan, ...]
    trained: int
    total: Cost
    limit: int | None
    now: Cost
    left: Cost
    groups: tuple[TrainingGroup, ...] = ()
    notes: tuple[str, ...] = ()


def plan_study(study: str, variants: Sequence[Variant], limit: int | None = None) -> StudyPlan:
    """Return the plan of every variant; each is scored on the held-out rows of all.

    limit: how many trainings are run at most, see `select`.
    """
    plans = plan_each(variants, variants)
    trained = {plan.variant for plan in plans if plan.trained}
    selection = select(variants, limit, trained)
    left = {variant.name for variant in selection.left}
    by_name = {plan.variant: plan for plan in plans}
    groups, notes = plan_groups(selection.chosen, by_name)
    all_groups = groups if limit is None else plan_groups(variants, by_name).groups
    earlier = [plan for plan in plans if plan.variant not in left]
    later = [plan for plan in plans if plan.variant in left]
    return StudyPlan(
        study=study,
        plans=tuple(plans),
        trained=len(trained),
        total=Cost.of(plans, groups=all_groups),
        limit=limit,
        now=Cost.of(earlier, groups=groups),
        left=Cost.of(later, before=earlier),
        groups=groups,
        notes=notes,
    )


def _sum(values: Iterable[Number | None], start: Number) -> Number | None:
    """Return the sum; None where one of the values is not known."""
    listed = list(values)
    return None if None in listed else sum((x for x in listed if x is not None), start)


def _disk_bytes(plans: Sequence[Plan], before: Sequence[Plan]) -> int:
    own = [need.bytes for plan in plans for need in plan.disk if need.of_one_training]
    return sum(own) + sum(need.bytes for need in _shared_needs(plans) - _shared_needs(before))


def _shared_needs(plans: Sequence[Plan]) -> set[Need]:
    return {need for plan in plans for need in plan.disk if not need.of_one_training}


def _download_bytes(plans: Sequence[Plan], before: Sequence[Plan]) -> int | None:
    return _sum((step.bytes for step in _downloads(plans) - _downloads(before)), 0)


def _downloads(plans: Sequence[Plan]) -> set[PlannedStep]:
    return {step for plan in plans for step in plan.steps if step.state == "download"}

"""What a whole study would cost: the plans of its cells, and their sums."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, computed_field

from chatpipe.config.schema import Variant
from chatpipe.planning.planner import plan_each
from chatpipe.planning.result import Plan


class StudyPlan(BaseModel):
    """The plans of a study's variants; `trained` are those whose adapter is in the store."""

    model_config = ConfigDict(frozen=True)

    study: str
    plans: tuple[Plan, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def trained(self) -> int:
        """How many adapters are in the store."""
        return sum(cell.trained for cell in self.plans)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tokens(self) -> int | None:
        """Tokens of all trainings to come; None where those of one are not known."""
        durations = [cell.duration for cell in self._to_train]
        return None if None in durations else sum(each.tokens for each in durations if each)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seconds(self) -> float | None:
        """Of all trainings to come, one after another; None where one is not known."""
        durations = [cell.duration for cell in self._to_train]
        return None if None in durations else sum(each.seconds for each in durations if each)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def memory_bytes(self) -> int | None:
        """What the largest training takes; None where one is not known."""
        estimates = [cell.memory for cell in self._to_train]
        known = [estimate.total for estimate in estimates if estimate]
        return max(known, default=0) if len(known) == len(estimates) else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def disk_bytes(self) -> int:
        """All adapters and their checkpoints, and what the cells share once."""
        own = [need for cell in self._to_train for need in cell.disk if need.of_one_training]
        shared = {
            (need.what, need.path, need.bytes)
            for cell in self.plans
            for need in cell.disk
            if not need.of_one_training
        }
        return sum(need.bytes for need in own) + sum(size for _, _, size in shared)

    @property
    def _to_train(self) -> list[Plan]:
        return [cell for cell in self.plans if not cell.trained]


def plan_study(study: str, variants: Sequence[Variant]) -> StudyPlan:
    """Return the plan of every variant; each is scored on the held-out rows of all."""
    return StudyPlan(study=study, plans=tuple(plan_each(variants, variants)))

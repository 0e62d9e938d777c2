"""A person's decision on figures that are worse than accepted, by the form of a suspended run.

A suspended run has no process. When it is resumed, it starts again from the beginning: the figures
that were shown are an input of the run, so that what is accepted is what the person has seen.
"""

from __future__ import annotations

from typing import Literal

from prefect import runtime
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import (
    create_flow_run_input,
    delete_flow_run_input,
    read_flow_run_input,
)
from pydantic import Field

from chatpipe.reevaluation.pending import PendingDecision

INPUT = "chatpipe-gate"


class Decision(RunInput):
    """The form. What is left out refuses."""

    decision: Literal["refuse", "accept"] = Field(
        "refuse", description="accept: these figures are right. refuse: the run fails."
    )
    reason: str = Field("", description="Is written into the run's final message.")


def can_wait() -> bool:
    """Return whether this run can be suspended: Prefect resumes runs of deployments only."""
    return runtime.deployment.id is not None


def suspended_on() -> PendingDecision | None:
    """Return what this run was suspended for, if it was."""
    value = read_flow_run_input(INPUT) if can_wait() else None
    return None if value is None else PendingDecision.model_validate(value)


def suspend_until_decided(pending: PendingDecision, within_h: float) -> Decision:
    """Suspend this run; return the decision when it is called in the resumed run.

    A run that nobody has resumed after `within_h` hours is failed by the server.
    """
    if suspended_on() is None:
        create_flow_run_input(INPUT, pending.model_dump(mode="json"))
    form = Decision.with_initial_data(description=pending.description())
    decision = suspend_flow_run(
        wait_for_input=form, timeout=max(1, round(within_h * 3600)), key=pending.key
    )
    delete_flow_run_input(INPUT)  # a retry of this run checks anew
    return decision

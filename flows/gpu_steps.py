"""The flow that runs steps for a GPU; runs of other flows start it on workers with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from prefect import State, flow
from prefect.states import Failed
from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError, IncompleteStudyError
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.generation.replies import Reply
from chatpipe.harness.run_task import RunTask
from chatpipe.study.resolving import Step
from chatpipe.training.finetune import Finetune
from chatpipe.utils.sentences import one_line
from flows.cells import ENDS_THE_STUDY, INCOMPLETE
from flows.naming import check_home, flow_run_name
from tasks import preflight, steps

GpuRequest = Finetune | Score | Ask | Reply | RunTask


class SerializedStep(BaseModel):
    """A step as a parameter of a flow run, on its way to a machine with a GPU."""

    model_config = ConfigDict(frozen=True)

    step: Literal["adapter", "scores", "generations", "replies", "task-scores"]
    request: dict[str, Any]
    label: str
    model: str = ""  # its name in the report

    @classmethod
    def of(cls, step: Step, model: str) -> SerializedStep:
        """Return the step of that model, identified by its artifact's kind."""
        fields = step.request.model_dump(mode="json")
        return cls.model_validate(
            {"step": step.request.kind, "request": fields, "label": step.label, "model": model}
        )

    def parsed(self) -> GpuRequest:
        """Return the request."""
        request_types: tuple[type[GpuRequest], ...] = get_args(GpuRequest)
        return {step.kind: step for step in request_types}[self.step].model_validate(self.request)


@flow(name="gpu-steps", flow_run_name=flow_run_name("label"), persist_result=False)
def gpu_steps(
    label: str, plan: list[Variant], requests: list[SerializedStep]
) -> State[None] | None:
    """Plan variants on this machine's GPU, or run steps on it; other flows start these runs.

    A model of which a step fails is left out; the run then ends Failed, with a line for each.

    Args:
        label: Name of the run.
        plan: Variants to plan before anything is trained.
        requests: Steps to run, one after another.
    """
    check_home()
    if plan:
        preflight.plan(plan)
    failures = _run_steps(requests)
    if not failures:
        return None
    lines = [f"{model}: {one_line(error)}" for model, error in failures.items()]
    return Failed(name=INCOMPLETE, message="\n".join(lines), data=IncompleteStudyError(*lines))


def _run_steps(serialized: Sequence[SerializedStep]) -> dict[str, ChatpipeError]:
    """Run the steps of all models; return the errors of those that failed."""
    requests = [step.parsed() for step in serialized]
    together = steps.candidates(requests)
    failures: dict[str, ChatpipeError] = {}
    with steps.EVAL_WORKER.keep_alive():
        for step, request in zip(serialized, requests, strict=True):
            if step.model in failures:
                continue
            try:
                steps.run(request, step.label, together)
            except ENDS_THE_STUDY:
                raise
            except ChatpipeError as error:
                failures[step.model] = error
    return failures

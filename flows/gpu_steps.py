"""The flow that runs steps for a GPU; runs of other flows start it on workers with one."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Variant
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.generation.replies import Reply
from chatpipe.store.artifact import Artifact
from chatpipe.study.recipe import Step
from chatpipe.training.finetune import Finetune
from flows.naming import check_home, flow_run_name
from tasks import preflight, steps

GpuRequest = Finetune | Score | Ask | Reply


class SerializedStep(BaseModel):
    """A step as a parameter of a flow run, on its way to a machine with a GPU."""

    model_config = ConfigDict(frozen=True)

    step: Literal["adapter", "scores", "generations", "replies"]
    request: dict[str, Any]
    label: str

    @classmethod
    def of(cls, step: Step) -> SerializedStep:
        """Return the step, identified by its artifact's kind."""
        fields = step.request.model_dump(mode="json")
        return cls.model_validate(
            {"step": step.request.kind, "request": fields, "label": step.label}
        )

    def build(self) -> Artifact:
        """Run the request's task."""
        request_types: tuple[type[GpuRequest], ...] = (Finetune, Score, Ask, Reply)
        request = {step.kind: step for step in request_types}[self.step].model_validate(
            self.request
        )
        return steps.run(request, self.label)


@flow(name="gpu-steps", flow_run_name=flow_run_name("label"), persist_result=False)
def gpu_steps(label: str, plan: list[Variant], requests: list[SerializedStep]) -> None:
    """Plan variants on this machine's GPU, or run steps on it; other flows start these runs.

    Args:
        label: Name of the run.
        plan: Variants to plan before anything is trained.
        requests: Steps to run, one after another.
    """
    check_home()
    if plan:
        preflight.plan(plan)
    with steps.EVAL_WORKER.keep_alive():
        for step in requests:
            step.build()

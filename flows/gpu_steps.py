"""The steps that need a GPU, as a flow of their own: what runs on other machines ask for."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Variant
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.store.artifact import Artifact
from chatpipe.study.recipe import Step
from chatpipe.training.finetune import Finetune
from flows.naming import check_home, flow_run_name
from tasks import preflight, steps

GpuRequest = Finetune | Score | Ask


class SerializedStep(BaseModel):
    """A step as a parameter of a flow run, on its way to a machine with a GPU."""

    model_config = ConfigDict(frozen=True)

    step: Literal["adapter", "scores", "generations"]
    request: dict[str, Any]
    label: str

    @classmethod
    def of(cls, step: Step) -> SerializedStep:
        """That step, by the kind of what it gives."""
        fields = step.request.model_dump(mode="json")
        return cls.model_validate(
            {"step": step.request.kind, "request": fields, "label": step.label}
        )

    def build(self) -> Artifact:
        """Run the request's task."""
        known: tuple[type[GpuRequest], ...] = (Finetune, Score, Ask)
        request = {step.kind: step for step in known}[self.step].model_validate(self.request)
        return steps.run(request, self.label)


@flow(name="gpu-steps", flow_run_name=flow_run_name("label"), persist_result=False)
def gpu_steps(label: str, plan: list[Variant], asked: list[SerializedStep]) -> None:
    """Plan variants on this machine's GPU, or build what was asked for; a run of another
    deployment asks for it.

    Args:
        label: What it is for.
        plan: Variants to account for before anything is trained.
        asked: Steps to build, one after another.
    """
    check_home()
    if plan:
        preflight.plan(plan)
    with steps.EVAL_WORKER.keep_alive():
        for step in asked:
            step.build()

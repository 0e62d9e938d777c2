"""A study: several variants of one or more bases, one report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow
from pydantic import BeforeValidator, Field

from chatpipe.config.prompt_template_parameter import PromptTemplateParameter
from chatpipe.config.schema import Dataset, Variant
from chatpipe.store.artifact import Artifact
from flows.naming import flow_run_name
from flows.placement import placement
from flows.run_parameters import run_parameters
from flows.study import run_study


class StudyVariant(Variant):
    """A variant as a run names it; what it leaves out is that of the deployment's variant of this
    name."""

    datasets: tuple[Dataset, ...] = Field((), description="those of the deployment where left out")
    prompt_template: PromptTemplateParameter = Field("alpaca", validate_default=True)


def _as_mapping(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Variant) else value


if TYPE_CHECKING:
    VariantParameter = Variant
else:
    VariantParameter = Annotated[StudyVariant, BeforeValidator(_as_mapping)]


@flow(name="compare", flow_run_name=flow_run_name("study"), persist_result=False)
def compare(
    study: str, variants: list[VariantParameter], gpu_workers: str | None = None
) -> Artifact:
    """Fine-tune what is not yet fine-tuned, score and ask every model, write one report.

    Args:
        study: The report's title.
        variants: What stands side by side.
        gpu_workers: Deployment whose workers do what needs a GPU; this run does it when empty.
    """
    parameters = run_parameters(locals())
    tuned = parameters.variants("compare")
    gpu = placement(parameters.values.get("gpu_workers"))
    return run_study(parameters.study_name(tuned), tuned, gpu)

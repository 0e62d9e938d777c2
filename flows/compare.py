"""A study: several variants of one or more bases, one report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from prefect import State, flow
from pydantic import BeforeValidator, Field

from chatpipe.config.prompt_template_parameter import PromptTemplateParameter
from chatpipe.config.schema import Dataset, Variant
from chatpipe.store.artifact import Artifact
from flows.naming import flow_run_name
from flows.placement import placement
from flows.run_parameters import run_parameters
from flows.study import run_study


class StudyVariant(Variant):
    """A variant as a parameter of a run; missing keys come from the deployment's variant."""

    datasets: tuple[Dataset, ...] = Field((), description="default: those of the deployment")
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
) -> Artifact | State[Artifact]:
    """Fine-tune and score variants and their bases, answer their prompts, write one report.

    Args:
        study: Name of the study and of its report.
        variants: The variants to compare.
        gpu_workers: Deployment whose workers run the steps for GPUs; default: this run.
    """
    parameters = run_parameters(locals())
    study_variants = parameters.variants("compare")
    gpu = placement(parameters.values.get("gpu_workers"))
    return run_study(parameters.study_name(study_variants), study_variants, gpu)

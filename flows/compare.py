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

    name: str = Field(description="of a variant, or of a cell: smol-merge/lr=3e-4/seed=1")
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
    study: str,
    variants: list[VariantParameter],
    gpu_workers: str | None = None,
    notes: tuple[str, ...] = (),
) -> Artifact | State[Artifact]:
    """Fine-tune and score variants and their bases, answer their prompts, write one report.

    Args:
        study: Name of the study and of its report.
        variants: The variants to compare.
        gpu_workers: Deployment whose workers run the steps for GPUs; default: this run.
        notes: Sentences for the report, such as what is not in it yet.
    """
    parameters = run_parameters(locals())
    study_variants = parameters.variants("compare")
    gpu = placement(parameters.values.get("gpu_workers"))
    name = parameters.study_name(study_variants)
    return run_study(name, study_variants, gpu, parameters.values.get("notes") or ())

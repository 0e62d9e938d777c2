"""One variant, from its data sets to a report that compares it with its base."""

from __future__ import annotations

from prefect import flow

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.prompt_template_parameter import PromptTemplateParameter
from chatpipe.config.schema import (
    BaseModelRef,
    Dataset,
    Evaluation,
    Generation,
    Lora,
    PaperReported,
    Quantization,
    Split,
    Tracker,
    Training,
)
from chatpipe.store.artifact import Artifact
from flows.naming import flow_run_name
from flows.placement import placement
from flows.run_parameters import run_parameters
from flows.study import run_study


# One parameter a section, and not one for the whole variant: Prefect's run form shows each section
# with units and bounds.
@flow(name="finetune", flow_run_name=flow_run_name("name"), persist_result=False)
def finetune(
    name: str,
    base_model: BaseModelRef,
    datasets: tuple[Dataset, ...],
    split: Split,
    prompt_template: PromptTemplateParameter,
    quantization: Quantization,
    lora: Lora,
    training: Training,
    evaluation: Evaluation,
    panel: tuple[Prompt, ...],
    generation: Generation,
    tracking: Tracker = "none",
    paper_reported: PaperReported | None = None,
    gpu_workers: str | None = None,
) -> Artifact:
    """Fine-tune the variant, score and ask it and its base, write the report.

    Args:
        name: What people call the variant; it is in no key.
        base_model: Which base model.
        datasets: What it is trained on.
        split: How rows are divided into training and held-out.
        prompt_template: Prompt texts; the response begins right after them.
        quantization: How the frozen base weights are held.
        lora: The adapter's shape.
        training: The optimization.
        evaluation: How the held-out rows are scored.
        panel: The questions that every model is asked.
        generation: How the panel is answered; temperature 0 is greedy.
        tracking: Where the training is logged; it changes no result.
        paper_reported: What the 2023 study reports of it, to stand beside.
        gpu_workers: Deployment whose workers do what needs a GPU; this run does it when empty.
    """
    parameters = run_parameters(locals())
    variant = parameters.variant("finetune")
    return run_study(variant.name, [variant], placement(parameters.values.get("gpu_workers")))

"""One variant, from its data sets to a report that compares it with its base."""

from __future__ import annotations

from prefect import State, flow

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.prompt_template_parameter import PromptTemplateParameter
from chatpipe.config.schema import (
    BaseModelRef,
    Dataset,
    Dedup,
    Evaluation,
    Generation,
    ImportedAdapter,
    Lora,
    PaperReported,
    Quantization,
    Split,
    Tracker,
    Training,
    TrainTogether,
)
from chatpipe.store.artifact import Artifact
from flows.naming import flow_run_name
from flows.placement import placement
from flows.run_parameters import run_parameters
from flows.study import run_study


# One parameter per section, not one for the whole variant: Prefect's run form then shows each
# section with units and bounds.
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
    data_share: float = 1.0,
    dedup: Dedup = "exact",
    heldout: Dataset | None = None,
    tracking: Tracker = "none",
    train_together: TrainTogether = "auto",
    paper_reported: PaperReported | None = None,
    imported: ImportedAdapter | None = None,
    gpu_workers: str | None = None,
) -> Artifact | State[Artifact]:
    """Fine-tune a variant, score it and its base, answer its prompts, write a report.

    Args:
        name: Name of the variant; no key contains it. smol-merge/lr=3e-4/seed=1 is the variant with
            these settings.
        base_model: The base model.
        datasets: The data sets that it is trained on.
        split: How rows are divided into training and held-out.
        prompt_template: Prompt texts, after which the response begins, or a chat template.
        quantization: How the frozen base weights are stored in memory.
        lora: The adapter's shape.
        training: Settings of the optimization.
        evaluation: How the held-out rows are scored.
        panel: The prompts that every model answers.
        generation: Settings of the answers; temperature 0 is greedy.
        data_share: Share of the training rows that it is trained on, by a hash of their prompts.
        dedup: Which duplicates are left out: exact ones, or near ones too.
        heldout: Held-out rows of one's own, scored beside those of the data sets.
        tracking: Where the training is logged; it changes no result.
        train_together: How many trainings of one base share its passes, here or in another run of
            this variant's study: auto, off or a number; it changes no result.
        paper_reported: Figures of the 2023 study, printed beside the measured ones.
        imported: An adapter that was trained elsewhere; nothing is trained.
        gpu_workers: Deployment whose workers run the steps for GPUs; default: this run.
    """
    parameters = run_parameters(locals())
    variant = parameters.variant("finetune")
    return run_study(variant.name, [variant], placement(parameters.values.get("gpu_workers")))

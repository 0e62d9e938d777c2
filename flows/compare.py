"""A study: several variants of one or more bases, one report."""

from __future__ import annotations

from prefect import flow

from chatpipe.artifacts import Artifact
from chatpipe.config import Variant
from flows.entering import named_by
from flows.placement import placement
from flows.story import study_story


@flow(name="compare", flow_run_name=named_by("study"), persist_result=False)
def compare(study: str, variants: list[Variant], gpu_workers: str | None = None) -> Artifact:
    """Fine-tune what is not yet fine-tuned, score and ask every model, write one report.

    Args:
        study: The report's title.
        variants: What stands side by side.
        gpu_workers: Deployment whose workers do what needs a GPU; this run does it when empty.
    """
    return study_story(study, variants, placement(gpu_workers))

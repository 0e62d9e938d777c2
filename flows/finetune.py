"""One variant, from its data sets to a report that compares it with its base."""

from __future__ import annotations

from prefect import flow

from chatpipe.artifacts import Artifact
from chatpipe.config import Variant
from flows.story import study_story


@flow(name="finetune", flow_run_name="finetune {variant.name}", persist_result=False)
def finetune(variant: Variant) -> Artifact:
    """Fine-tune the variant, score and ask it and its base, write the report.

    Args:
        variant: Base × data × settings.
    """
    return study_story(variant.name, [variant])

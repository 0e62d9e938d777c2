"""A study: several variants of one or more bases, one report."""

from __future__ import annotations

from prefect import flow

from chatpipe.artifacts import Artifact
from chatpipe.config import Variant
from flows.naming import named_by
from flows.story import study_story


@flow(name="compare", flow_run_name=named_by("study"), persist_result=False)
def compare(study: str, variants: list[Variant]) -> Artifact:
    """Fine-tune what is not yet fine-tuned, score and ask every model, write one report.

    Args:
        study: The report's title.
        variants: What stands side by side.
    """
    return study_story(study, variants)

"""A model of a study with its scores and answers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import PaperReported, Variant
from chatpipe.store.artifact import Artifact


class Measured(BaseModel):
    """One model of a study with everything that was found out about it; a base has no adapter.

    base_model: the name under which the report has its base. paper_reported: the variant's own,
    which is in no key of the variant but in the report's. own_template_base: of a variant in
    another template, the name of its base as measured in the base's own chat template.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset(
        {"replies", "tasks", "row_answers"}
    )

    name: str
    base_model: str
    variant: Variant
    adapter: Artifact | None
    corpus: Artifact | None
    scores: dict[str, Artifact]  # data set -> nats of its held-out rows
    generations: Artifact  # answers to the panel
    paper_reported: PaperReported | None = None
    own_template_base: str | None = None
    row_answers: dict[str, Artifact] = {}  # data set -> answers to prompts of its held-out rows
    replies: dict[str, Artifact] = {}  # data set -> answers to its held-out rows
    tasks: dict[str, Artifact] = {}  # item of evaluation.tasks -> its results

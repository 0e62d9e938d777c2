"""A model of a study, and the steps that measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from chatpipe.config.schema import Variant
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.generation.replies import Reply
from chatpipe.harness.fetch_task import task_name
from chatpipe.harness.run_task import RunTask
from chatpipe.models.model_ref import ModelRef
from chatpipe.report.measured import Measured
from chatpipe.store.artifact import Artifact
from chatpipe.study.resolving import Job, Step


@dataclass(frozen=True)
class StudyModel:
    """A model of a study: a base, or a variant's adapter on it, evaluated with the settings of
    that variant. `base_name` is what the report calls the base in that variant's template."""

    variant: Variant
    base_name: str
    ref: ModelRef
    corpus: Artifact | None = None  # what the adapter was trained on, where that was here
    own_template_base: str | None = None  # the row of its base in the base's own chat template
    is_asked_raw: bool = False

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.variant.name if self.ref.adapter else self.base_name

    def with_adapter(
        self, variant: Variant, adapter: Artifact, corpus: Artifact | None
    ) -> StudyModel:
        """Return the variant's model: its adapter on this base."""
        ref = ModelRef(self.ref.base, adapter)
        return replace(self, variant=variant, ref=ref, corpus=corpus, is_asked_raw=False)

    def score_steps(self, heldout: Mapping[str, Artifact]) -> list[Step]:
        """Return the steps that score it, one for each held-out set."""
        return [
            Step(Score.of(self.variant, self.ref, rows), f"{self.name} on {dataset}")
            for dataset, rows in heldout.items()
        ]

    def reply_steps(self, heldout: Mapping[str, Artifact]) -> list[Step]:
        """Return the steps in which it answers held-out rows, one for each set; none where the
        variant asks for none."""
        if not self.variant.evaluation.replies:
            return []
        return [
            Step(Reply.of(self.variant, self.ref, rows), f"{self.name} on {dataset}")
            for dataset, rows in heldout.items()
        ]

    def task_steps(self, tasks: Mapping[str, Artifact]) -> list[Step]:
        """Return the steps that evaluate it on the variant's tasks."""
        return [
            Step(RunTask.of(self.variant, self.ref, tasks[task]), f"{self.name} on {label}")
            for task in self.variant.evaluation.tasks
            for label in [task_name(task)]
        ]

    def ask_step(self) -> Step:
        """Return the step that has it answer the panel."""
        return Step(Ask.of(self.variant, self.ref, self.is_asked_raw), self.name)

    def ask_row_steps(self, heldout: Mapping[str, Artifact]) -> list[Step]:
        """Return the steps that have it answer prompts of held-out rows, one for each set; none
        where the variant asks for none."""
        if not self.variant.panel_rows:
            return []
        return [
            Step(Ask.about_rows(self.variant, self.ref, rows), f"{self.name} on {dataset}")
            for dataset, rows in heldout.items()
        ]

    def job(self, heldout: Mapping[str, Artifact], tasks: Mapping[str, Artifact]) -> Job:
        """Return all steps that measure it, in the order that `measured` takes."""
        steps = (
            *self.score_steps(heldout),
            self.ask_step(),
            *self.ask_row_steps(heldout),
            *self.reply_steps(heldout),
            *self.task_steps(tasks),
        )
        return Job(f"measure {self.name}", steps, self.name)

    def measured(self, heldout: Sequence[str], artifacts: Sequence[Artifact]) -> Measured:
        """Return it with the artifacts of its job's steps, in their order."""
        remaining = iter(artifacts)
        evaluation = self.variant.evaluation
        return Measured(
            name=self.name,
            base_model=self.base_name,
            variant=self.variant,
            paper_reported=self.variant.paper_reported if self.ref.adapter else None,
            adapter=self.ref.adapter,
            corpus=self.corpus,
            own_template_base=self.own_template_base,
            scores={name: next(remaining) for name in heldout},
            generations=next(remaining),
            row_answers={
                name: next(remaining) for name in (heldout if self.variant.panel_rows else ())
            },
            replies={name: next(remaining) for name in (heldout if evaluation.replies else ())},
            tasks=dict(zip(evaluation.tasks, remaining, strict=True)),
        )

    def with_present_base(self, names: Set[str]) -> StudyModel:
        """Return it without its base in the base's own chat template, if that is none of these
        names."""
        is_present = self.own_template_base in names
        return self if is_present else replace(self, own_template_base=None)


@dataclass(frozen=True)
class OwnTemplateBases:
    """The bases of a study in their own chat templates, where a variant has another template.

    Attributes:
        names: Name of a variant → name of its base in the base's own chat template.
        models: The bases that are measured for this alone; one that is measured so for a variant
            is among the bases already.
        notes: A sentence for each base whose chat template cannot be used.
    """

    names: Mapping[str, str]
    models: Sequence[StudyModel]
    notes: Sequence[str]

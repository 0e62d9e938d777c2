"""What became of the models of a study: rows of the table in the dashboard, and errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from prefect.logging import get_run_logger

from chatpipe.config.schema import Variant
from chatpipe.errors import (
    ChatpipeError,
    DiskError,
    IncompleteStudyError,
    ServiceError,
    SharedStoreError,
    StoppedError,
)
from chatpipe.evaluation.metrics import METRICS
from chatpipe.evaluation.row_scores import ScoreReader
from chatpipe.evaluation.score import Score
from chatpipe.report import MissingCell
from chatpipe.runtime.failures import without_file
from chatpipe.store.artifact import Artifact
from chatpipe.study.resolving import Job, Step
from chatpipe.training.finetune import Finetune
from chatpipe.utils.sentences import one_line
from tasks.cell_table import CellTable

# Not of one model: the next one would fail in the same way.
ENDS_THE_STUDY = (DiskError, ServiceError, SharedStoreError, StoppedError)
INCOMPLETE = "Incomplete"  # name of the state of a run that ends without all models
AGAIN = "run it again: what is in the store is kept, and only what is missing is tried."


class Cells:
    """The models of a study. One that fails is left out, and the others go on.

    errors: name of a model in the report -> why it is not there. ended: labels of jobs.
    """

    def __init__(self, study: str, variants: Sequence[Variant]) -> None:
        self.errors: dict[str, ChatpipeError] = {}
        self.ended: set[str] = set()
        self.table = CellTable(study, [variant.name for variant in variants])

    @contextmanager
    def recorded(self, name: str) -> Iterator[None]:
        """Record an error in this block as that model's, unless it ends the whole study."""
        try:
            yield
        except ChatpipeError as error:
            if isinstance(error, ENDS_THE_STUDY):
                raise
            self.fail(name, error)

    def fail(self, name: str, error: ChatpipeError) -> None:
        """Record why a model will not be in the report."""
        self.errors[name] = error
        get_run_logger().error("%s", self._sentence(name))
        self.table.update(name, state="failed", why=one_line(error))

    def start(self, job: Job) -> None:
        """Show that the job's model is computed now."""
        is_training = isinstance(job.steps[0].request, Finetune)
        self.table.update(job.model, state="training" if is_training else "measuring")

    def end(self, job: Job, artifacts: Sequence[Artifact | None]) -> None:
        """Show the figures of a job that has ended."""
        self.ended.add(job.label)
        is_training = isinstance(job.steps[0].request, Finetune)
        self.table.update(job.model, state="trained" if is_training else "measured")
        for step, artifact in zip(job.steps, artifacts, strict=True):
            if artifact is None:
                continue
            with suppress(Exception):
                self.table.update(job.model, **_figures(job, step, artifact))

    def remaining(self, variants: Sequence[Variant]) -> list[Variant]:
        """Return the variants without those that failed."""
        return [variant for variant in variants if variant.name not in self.errors]

    def check_any(self, remaining: Sequence[object]) -> None:
        """Raise the errors where nothing remains that a report could be about."""
        if not remaining:
            self._raise()

    def sentences(self) -> tuple[str, ...]:
        """Return which models are missing from the report, and why."""
        return tuple(self._sentence(name) for name in self.errors)

    def missing(self) -> tuple[MissingCell, ...]:
        """Return the same for the report."""
        return tuple(
            MissingCell(name=name, reason=without_file(one_line(error)))
            for name, error in self.errors.items()
        )

    def incomplete(self) -> IncompleteStudyError | None:
        """Return the error of a study of which a model is missing."""
        return IncompleteStudyError(*self.sentences(), AGAIN) if self.errors else None

    def _sentence(self, name: str) -> str:
        return f"{name} is missing from the report: {one_line(self.errors[name])}"

    def _raise(self) -> None:
        """Raise the error that all models have, with its type, or one with a sentence of each."""
        messages = {str(error): error for error in self.errors.values()}
        if len(messages) == 1:
            raise next(iter(messages.values()))
        raise ChatpipeError(*(f"{name}: {one_line(e)}" for name, e in self.errors.items()))


def _figures(job: Job, step: Step, artifact: Artifact) -> dict[str, str | float]:
    """Return what the table shows of a step."""
    if isinstance(step.request, Finetune):
        return {"training, s": round(float(artifact.details()["wall_s"]), 1)}
    if isinstance(step.request, Score):
        heldout = step.label.removeprefix(f"{job.model} on ")
        return {f"perplexity on {heldout}": round(_perplexity(artifact), 3)}
    return {}


def _perplexity(scores: Artifact) -> float:
    metric = METRICS["perplexity"]
    rows = ScoreReader().rows({scores.key: scores}, (scores.key,), metric.labels)
    return float(metric.measure(rows.nats, rows.tokens))

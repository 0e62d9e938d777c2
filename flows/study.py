"""A study, run: its recipe's steps as Prefect tasks, those that need a GPU where the GPUs are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from prefect import State
from prefect.states import Failed

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError
from chatpipe.generation.ask import Ask
from chatpipe.report import MissingCell, read_report
from chatpipe.report.build import MakeReport
from chatpipe.store.artifact import Artifact
from chatpipe.study.checks import check_study
from chatpipe.study.export import export_report, export_variant
from chatpipe.study.files import names
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import Job, Resolver, Step
from chatpipe.study.selection import first_seeds
from flows.cells import INCOMPLETE, Cells
from flows.job_groups import grouped_by_base
from flows.naming import check_home
from flows.placement import Placement
from tasks import preflight, showing, steps


def run_study(
    study: str, variants: Sequence[Variant], gpu: Placement, notes: Sequence[str] = ()
) -> Artifact | State[Artifact]:
    """Run every step of these variants; return the report on them and their bases.

    A variant or base that fails is left out of the report, and the run ends Failed as "Incomplete".
    Where no variant is left, there is no report, and the error is raised. `notes` are sentences on
    what is not in the report yet.
    """
    check_home()
    check_study(variants)
    gpu.plan(variants)
    for variant in variants:
        if variant.name not in names("variants"):  # no file of that name says what is run
            export_variant(variant)
    cells = Cells(study, variants)
    build = Build(gpu, cells=cells)
    try:
        request = _report_request(study, variants, build, cells)
        request = request.model_copy(update={"unfinished": tuple(notes)})
        report = build.resolve(Step(request, study))
    finally:
        cells.table.show()
    showing.show_report(read_report(report.path), export_report(report, study))
    error = cells.incomplete()
    return Failed(name=INCOMPLETE, message=str(error), data=error) if error else report


def _report_request(
    study: str, variants: Sequence[Variant], build: Build, cells: Cells
) -> MakeReport:
    """Return the request for the report on the variants of which no step fails."""
    recipe = Recipe(variants, build)
    for variant in variants:
        with cells.recorded(variant.name):
            recipe.adapter_request(variant)
            recipe.import_adapter(variant)
            for dataset in variant.datasets:
                recipe.heldout(dataset, variant.split)
            for task in variant.evaluation.tasks:  # what is wrong with one is found before training
                recipe.task(task)
    variants = cells.remaining(variants)
    first = first_seeds(variants)
    others = [variant for variant in variants if variant not in first]
    if len(first) >= build.gpu.width() and preflight.untrained(others):
        early = _trained(first, build, cells)
        if early:
            showing.show_early(Recipe(early, build).report_request(study))
    variants = _trained(cells.remaining(variants), build, cells)
    cells.check_any(variants)
    request = Recipe(variants, build).report_request(study)
    cells.check_any([model for model in request.models if model.adapter])
    return request


def _trained(variants: Sequence[Variant], build: Build, cells: Cells) -> list[Variant]:
    """Train the variants; return those that did not fail."""
    Recipe(variants, build).finetuned_models()
    return cells.remaining(variants)


class Build(Resolver):
    """Builds with Prefect tasks what the store does not have.

    Args:
        gpu: Where training, scoring and generation run.
        upcoming: Requests of later jobs. Their prompts may be answered in the same batches as those
            of earlier jobs with the same base.
        cells: The models of a study, which goes on without those that fail. Without it, the first
            error is raised.
    """

    def __init__(
        self, gpu: Placement, upcoming: Sequence[Ask] = (), cells: Cells | None = None
    ) -> None:
        self.gpu = gpu
        self.upcoming = tuple(upcoming)
        self.cells = cells
        self._outcomes: dict[tuple[str, str], Artifact | ChatpipeError] = {}

    def resolve(self, step: Step) -> Artifact:
        return self._resolve(step, steps.NO_CANDIDATES)

    def resolve_optional(self, step: Step) -> Artifact | None:
        if self.cells is None:
            return self.resolve(step)
        with self.cells.recorded(step.label):
            return self.resolve(step)
        return None

    def resolve_jobs(self, jobs: Sequence[Job]) -> list[list[Artifact] | None]:
        """Return the artifacts of every job's steps, None for a job of a model that failed.

        Workers do all jobs at once, in several runs. Here, one follows another, grouped by base, so
        that each base is loaded once.
        """
        todo = [job for job in jobs if not self._is_done(job)]
        self.gpu.build_ahead(todo, self.cells)
        ordered = list(itertools.chain(*grouped_by_base(todo)))
        requests = [step.request for job in ordered for step in job.steps]
        together = steps.candidates([*requests, *self.upcoming])
        with steps.EVAL_WORKER.keep_alive():
            for job in ordered:
                self._run(job, together)
        results = [self._artifacts(job) for job in jobs]
        for job, artifacts in zip(jobs, results, strict=True):
            if self.cells and artifacts and job.label not in self.cells.ended:
                self.cells.end(job, artifacts)  # another model has the same steps
        return results

    def missing(self) -> tuple[MissingCell, ...]:
        return self.cells.missing() if self.cells else ()

    def _run(self, job: Job, together: steps.Candidates) -> None:
        """Run the steps of a job whose model has not failed."""
        if self.cells is None:
            for step in job.steps:
                self._resolve(step, together)
        elif job.model not in self.cells.errors:
            self.cells.start(job)
            with self.cells.recorded(job.model):
                self.cells.end(job, [self._resolve(step, together) for step in job.steps])

    def _resolve(self, step: Step, together: steps.Candidates) -> Artifact:
        """Run the step's task, once for all that need it: its error is raised again, too."""
        identity = _identity(step)
        if identity not in self._outcomes:
            try:
                self._outcomes[identity] = steps.run(step.request, step.label, together)
            except ChatpipeError as error:
                self._outcomes[identity] = error
        outcome = self._outcomes[identity]
        if isinstance(outcome, ChatpipeError):
            raise outcome
        return outcome

    def _is_done(self, job: Job) -> bool:
        has_failed = self.cells is not None and job.model in self.cells.errors
        return has_failed or self._artifacts(job) is not None

    def _artifacts(self, job: Job) -> list[Artifact] | None:
        """Return the artifacts of a job that has been run; None where one is missing."""
        outcomes = [self._outcomes.get(_identity(step)) for step in job.steps]
        artifacts = [outcome for outcome in outcomes if isinstance(outcome, Artifact)]
        return artifacts if len(artifacts) == len(job.steps) else None


def _identity(step: Step) -> tuple[str, str]:
    return step.request.kind, step.request.key()

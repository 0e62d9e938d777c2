"""A study, run: its recipe's steps as Prefect tasks, those that need a GPU where the GPUs are."""

from __future__ import annotations

from collections.abc import Sequence

from chatpipe.config.run_names import SEPARATOR
from chatpipe.config.schema import Variant
from chatpipe.generation.ask import Ask
from chatpipe.report import read_report
from chatpipe.store.artifact import Artifact
from chatpipe.study.checks import check_study
from chatpipe.study.export import export_report, export_variant
from chatpipe.study.recipe import Job, Recipe, Resolver, Step
from flows.gpu_steps import GpuRequest
from flows.naming import check_home
from flows.placement import Placement
from tasks import showing, steps


def run_study(study: str, variants: Sequence[Variant], gpu: Placement) -> Artifact:
    """Run every step of these variants; return the report on them and their bases."""
    check_home()
    check_study(variants)
    gpu.plan(variants)
    report = Recipe(variants, Build(gpu)).report(study)
    showing.show_report(read_report(report.path), export_report(report, study))
    for variant in variants:
        if SEPARATOR in variant.name:  # no file of its own says what was run
            export_variant(variant)
    return report


class Build(Resolver):
    """Builds with Prefect tasks what the store does not have.

    Args:
        gpu: Where training, scoring and generation run.
        upcoming: Requests of later jobs. Their prompts may be answered in the same batches as those
            of earlier jobs with the same base.
    """

    def __init__(self, gpu: Placement, upcoming: Sequence[Ask] = ()) -> None:
        self.gpu = gpu
        self.upcoming = tuple(upcoming)

    def resolve(self, step: Step) -> Artifact:
        return steps.run(step.request, step.label)

    def resolve_jobs(self, jobs: Sequence[Job]) -> list[list[Artifact]]:
        """Return the artifacts of every job's steps.

        Workers do all jobs at once, each in a run of its own. Here, one follows another, grouped by
        base, so that each base is loaded once.
        """
        self.gpu.build_ahead(_without_repeats(jobs))
        asks = [step.request for job in jobs for step in job.steps if isinstance(step.request, Ask)]
        together = steps.apart([*asks, *self.upcoming])
        artifacts: dict[int, list[Artifact]] = {}
        with steps.EVAL_WORKER.keep_alive():
            for index in _grouped_by_base(jobs):
                artifacts[index] = [
                    steps.run(step.request, step.label, together) for step in jobs[index].steps
                ]
        return [artifacts[index] for index in range(len(jobs))]


def _grouped_by_base(jobs: Sequence[Job]) -> list[int]:
    """Return the indices of the jobs, those together that load the same base, quantized alike."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, job in enumerate(jobs):
        request = job.steps[0].request
        assert isinstance(request, GpuRequest)
        base = (request.base.digest, request.quantization.model_dump_json())
        groups.setdefault(base, []).append(index)
    return [index for group in groups.values() for index in group]


def _without_repeats(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs without steps that an earlier one has: two workers would build the same."""
    keys: set[str] = set()
    remaining: list[Job] = []
    for job in jobs:
        fresh = {step.request.key(): step for step in job.steps}
        remaining.append(Job(job.label, tuple(s for key, s in fresh.items() if key not in keys)))
        keys |= fresh.keys()
    return remaining

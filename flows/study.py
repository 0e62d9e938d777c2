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

    `upcoming`: what models will be asked in later jobs; as far as they share a base, they are asked
    together with those of earlier jobs.
    """

    def __init__(self, gpu: Placement, upcoming: Sequence[Ask] = ()) -> None:
        self.gpu = gpu
        self.upcoming = tuple(upcoming)

    def resolve(self, step: Step) -> Artifact:
        return steps.run(step.request, step.label)

    def resolve_jobs(self, jobs: Sequence[Job]) -> list[list[Artifact]]:
        """Jobs for GPUs: one run each where workers build them, all at once; here one after
        another, base by base, so that each base is loaded once."""
        self.gpu.build_ahead(_without_repeats(jobs))
        asks = [step.request for job in jobs for step in job.steps if isinstance(step.request, Ask)]
        together = steps.apart([*asks, *self.upcoming])
        artifacts: dict[int, list[Artifact]] = {}
        with steps.MEASURING.kept():
            for place in _base_by_base(jobs):
                artifacts[place] = [
                    steps.run(step.request, step.label, together) for step in jobs[place].steps
                ]
        return [artifacts[place] for place in range(len(jobs))]


def _base_by_base(jobs: Sequence[Job]) -> list[int]:
    """The places of the jobs, those first that load the same base, quantized alike, as the first
    one."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, job in enumerate(jobs):
        request = job.steps[0].request
        assert isinstance(request, GpuRequest)
        base = (request.base.digest, request.quantization.model_dump_json())
        places.setdefault(base, []).append(place)
    return [place for group in places.values() for place in group]


def _without_repeats(jobs: Sequence[Job]) -> list[Job]:
    """The jobs without steps that an earlier one has: two workers would build the same."""
    keys: set[str] = set()
    remaining: list[Job] = []
    for job in jobs:
        fresh = {step.request.key(): step for step in job.steps}
        remaining.append(Job(job.label, tuple(s for key, s in fresh.items() if key not in keys)))
        keys |= fresh.keys()
    return remaining

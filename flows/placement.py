"""Chooses where the steps that need a GPU run: in this flow run, or on a deployment's workers."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError, ServiceError, StepProcessError
from chatpipe.store.store import store
from chatpipe.study.resolving import Job, Step
from chatpipe.utils.sentences import listed
from flows.cells import Cells
from flows.gpu_steps import SerializedStep
from flows.job_groups import for_workers, without_repeats
from flows.workers import online_workers
from tasks import preflight

POLL_INTERVAL_S = 2


class Placement(Protocol):
    """Where the steps that need a GPU run."""

    def plan(self, variants: Sequence[Variant]) -> None:
        """Estimate the variants on the device that will train them; ConfigError where they do not
        fit."""

    def width(self) -> int:
        """Return how many jobs run at the same time."""

    def build_ahead(self, jobs: Sequence[Job], cells: Cells | None) -> None:
        """Run the jobs on other workers; later tasks find their artifacts in the store.

        Models that fail are recorded in `cells`; without it, the first error is raised when all
        runs have ended.
        """


class LocalPlacement:
    """In this flow run: each task builds its artifact when it is called."""

    def plan(self, variants: Sequence[Variant]) -> None:
        preflight.plan(variants)

    def width(self) -> int:
        return 1

    def build_ahead(self, jobs: Sequence[Job], cells: Cells | None) -> None:
        pass


class WorkerPlacement:
    """In concurrent runs of a deployment: a study trains on as many GPUs as have workers."""

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment

    def plan(self, variants: Sequence[Variant]) -> None:
        untrained_variants = preflight.untrained(variants)
        if untrained_variants:
            # All of them: they are scored on each other's held-out rows.
            plan = [variant.model_dump(mode="json") for variant in variants]
            label = "plan " + listed([variant.name for variant in untrained_variants], 1)
            [run] = self._run([{"label": label, "plan": plan, "requests": []}], lambda *_: None)
            if not _is_completed(run):
                raise StepProcessError(f"{run.name}: {_reason(run)}")

    def width(self) -> int:
        return max(1, online_workers(self.deployment))

    def build_ahead(self, jobs: Sequence[Job], cells: Cells | None) -> None:
        unbuilt = [
            job._replace(steps=tuple(step for step in job.steps if not _is_stored(step)))
            for job in without_repeats(jobs)
        ]
        unbuilt = [job for job in unbuilt if job.steps]
        if not unbuilt:
            return
        groups = for_workers(unbuilt, self.width())
        errors: dict[str, ChatpipeError] = {}  # of steps, by the keys of their requests

        def record(index: int, run: FlowRun) -> None:
            for job in groups[index]:
                failed = {s.request.key(): self._error(s, job, run) for s in job.steps}
                errors.update({key: error for key, error in failed.items() if error})
                _record(job, errors, cells)
                if cells and not any(failed.values()):
                    cells.end(job, [store().lookup(step.request) for step in job.steps])

        self._run([_parameters(group) for group in groups], record)
        for job in jobs:  # those too that have a step in common with one that failed
            _record(job, errors, cells)
        if cells is None and errors:
            raise next(iter(errors.values()))

    def _error(self, step: Step, job: Job, run: FlowRun) -> ChatpipeError | None:
        """Return why the run has not built the step; None where it has."""
        if _is_stored(step):
            return None
        if _is_completed(run):
            return ServiceError(
                f"{step.label}: a worker of {self.deployment} has built it, but this run's "
                "store does not have it; see docs/deployments.md on a store that workers share."
            )
        lines = _reason(run).splitlines()
        prefix = f"{job.model}: "
        own = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        return StepProcessError(*(own or lines))

    def _run(
        self, runs: Sequence[dict[str, Any]], on_end: Callable[[int, FlowRun], None]
    ) -> list[FlowRun]:
        """Run the deployment with each of these parameters and wait for all runs; `on_end` is
        called with the index of each run when it has ended."""
        submitted: list[UUID] = []
        try:
            return asyncio.run(self._submit_and_wait(runs, submitted, on_end))
        except BaseException:  # this run was cancelled or killed: cancel the runs that it started
            _cancel(submitted)
            raise

    async def _submit_and_wait(
        self,
        runs: Sequence[dict[str, Any]],
        submitted: list[UUID],
        on_end: Callable[[int, FlowRun], None],
    ) -> list[FlowRun]:
        queue = _queue()
        if not await asyncio.to_thread(online_workers, self.deployment):
            get_run_logger().warning(
                "no worker of %s is online: this run waits until one is; docs/deployments.md says "
                "how to start one",
                self.deployment,
            )
        for parameters in runs:
            try:
                run = await arun_deployment(
                    self.deployment, parameters=parameters, timeout=0, work_queue_name=queue
                )
            except ObjectNotFound:
                raise ServiceError(
                    f"gpu_workers: {self.deployment} is not on the server; run `chatpipe deploy`."
                ) from None
            submitted.append(run.id)
            get_run_logger().info("%s: submitted to %s", parameters["label"], self.deployment)
        async with get_client() as client:

            async def follow(index: int, run_id: UUID) -> FlowRun:
                run = await _wait_for(client, run_id)
                await asyncio.to_thread(on_end, index, run)
                return run

            return list(await asyncio.gather(*itertools.starmap(follow, enumerate(submitted))))


def placement(gpu_workers: str | None) -> Placement:
    """Return the placement on that deployment's workers, or in this run where none is named."""
    return WorkerPlacement(gpu_workers) if gpu_workers else LocalPlacement()


def placement_if_online(gpu_workers: str | None) -> Placement:
    """Return the placement on that deployment's workers if one is online, else in this run."""
    if gpu_workers is None or online_workers(gpu_workers):
        return placement(gpu_workers)
    get_run_logger().info(
        "no worker of %s is online: this run builds the artifacts itself", gpu_workers
    )
    return LocalPlacement()


def _queue() -> str | None:
    """Return this run's work queue, for its steps to have the same priority."""
    context = FlowRunContext.get()
    return context.flow_run.work_queue_name if context and context.flow_run else None


async def _wait_for(client: PrefectClient, run_id: UUID) -> FlowRun:
    """Poll the run until it has ended. An event would be missed during a restart of the server."""
    while True:
        run = await client.read_flow_run(run_id)
        if run.state and run.state.is_final():
            return run
        await asyncio.sleep(POLL_INTERVAL_S)


def _parameters(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the parameters of a run that does these jobs."""
    steps = [SerializedStep.of(step, job.model) for job in jobs for step in job.steps]
    return {
        "label": listed([job.label for job in jobs], 1),
        "plan": [],
        "requests": [step.model_dump(mode="json") for step in steps],
    }


def _record(job: Job, errors: Mapping[str, ChatpipeError], cells: Cells | None) -> None:
    """Record that the job has failed, if a step of it has; an error that ends the study is
    raised."""
    if cells is None or job.model in cells.errors:
        return
    error = next((errors[k] for s in job.steps if (k := s.request.key()) in errors), None)
    if error is not None:
        with cells.recorded(job.model):
            raise error


def _is_completed(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_completed()


def _reason(run: FlowRun) -> str:
    """Return why the run did not complete, without what Prefect says before it."""
    state = run.state.name if run.state else "without a state"
    message = (run.state and run.state.message) or f"the run {run.name} ended as {state}."
    return re.sub(r"^(Flow|Task) run encountered an exception:? (\w+: )?", "", message)


def _is_stored(step: Step) -> bool:
    return store().lookup(step.request) is not None


def _cancel(runs: Sequence[UUID]) -> None:
    with get_client(sync_client=True) as client:
        for run in runs:
            client.set_flow_run_state(run, Cancelling())

"""Chooses where the steps that need a GPU run: in this flow run, or on a deployment's workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, WorkerStatus
from prefect.context import FlowRunContext
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelling

from chatpipe.config.schema import Variant
from chatpipe.errors import ServiceError, StepProcessError
from chatpipe.store.store import store
from chatpipe.study.recipe import Job, Step
from flows.gpu_steps import SerializedStep
from tasks import preflight

POLL_INTERVAL_S = 2


class Placement(Protocol):
    """Where the steps that need a GPU run."""

    def plan(self, variants: Sequence[Variant]) -> None:
        """Estimate the variants on the device that will train them; ConfigError where they do not
        fit."""

    def build_ahead(self, jobs: Sequence[Job]) -> None:
        """Run the jobs on other workers, one run for each; later tasks find their artifacts in the
        store."""


class LocalPlacement:
    """In this flow run: each task builds its artifact when it is called."""

    def plan(self, variants: Sequence[Variant]) -> None:
        preflight.plan(variants)

    def build_ahead(self, jobs: Sequence[Job]) -> None:
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
            label = "plan " + ", ".join(variant.name for variant in untrained_variants)
            self._run([{"label": label, "plan": plan, "requests": []}])

    def build_ahead(self, jobs: Sequence[Job]) -> None:
        runs = []
        for job in jobs:
            missing = [SerializedStep.of(step) for step in job.steps if not _is_stored(step)]
            if missing:
                steps = [step.model_dump(mode="json") for step in missing]
                runs.append({"label": job.label, "plan": [], "requests": steps})
        self._run(runs)
        for step in (step for job in jobs for step in job.steps):
            if not _is_stored(step):
                raise ServiceError(
                    f"{step.label}: a worker of {self.deployment} has built it, but this run's "
                    "store does not have it; see docs/deployments.md on a store that workers share."
                )

    def _run(self, runs: Sequence[dict[str, Any]]) -> None:
        """Run the deployment with each of these parameters and wait for all runs."""
        submitted: list[UUID] = []
        try:
            finished_runs = asyncio.run(self._submit_and_wait(runs, submitted))
        except BaseException:  # this run was cancelled or killed: cancel the runs that it started
            _cancel(submitted)
            raise
        for run in finished_runs:
            if run.state is None or not run.state.is_completed():
                message = (run.state and run.state.message) or "it did not complete."
                raise StepProcessError(f"{run.name}: {message}")

    async def _submit_and_wait(
        self, runs: Sequence[dict[str, Any]], submitted: list[UUID]
    ) -> list[FlowRun]:
        queue = _queue()
        if not await asyncio.to_thread(_is_online, self.deployment):
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
            return list(await asyncio.gather(*(_wait_for(client, run) for run in submitted)))


def placement(gpu_workers: str | None) -> Placement:
    """Return the placement on that deployment's workers, or in this run where none is named."""
    return WorkerPlacement(gpu_workers) if gpu_workers else LocalPlacement()


def placement_if_online(gpu_workers: str | None) -> Placement:
    """Return the placement on that deployment's workers if one is online, else in this run."""
    if gpu_workers is None or _is_online(gpu_workers):
        return placement(gpu_workers)
    get_run_logger().info(
        "no worker of %s is online: this run builds the artifacts itself", gpu_workers
    )
    return LocalPlacement()


def _is_online(deployment: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_deployment_by_name(deployment).work_pool_name
            workers = client.read_workers_for_work_pool(pool) if pool else []
        except ObjectNotFound:
            return False
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


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


def _is_stored(step: Step) -> bool:
    return store().lookup(step.request) is not None


def _cancel(runs: Sequence[UUID]) -> None:
    with get_client(sync_client=True) as client:
        for run in runs:
            client.set_flow_run_state(run, Cancelling())

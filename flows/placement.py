"""Where the steps that need a GPU are built: in this run, or by the workers of a deployment."""

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

POLLED_EVERY_S = 2


class Placement(Protocol):
    """Where GPU steps are built."""

    def plan(self, variants: Sequence[Variant]) -> None:
        """Account for the variants on the device that will train them; ConfigError where it
        cannot."""

    def build_ahead(self, jobs: Sequence[Job]) -> None:
        """Have these jobs done where the GPUs are, a run for each; the tasks that come after find
        their artifacts in the store."""


class Here:
    """In this run: its tasks build what they need, when they come to it."""

    def plan(self, variants: Sequence[Variant]) -> None:
        preflight.plan(variants)

    def build_ahead(self, jobs: Sequence[Job]) -> None:
        pass


class OnWorkers:
    """As runs of a deployment, all at once: a study trains on as many GPUs as have workers."""

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment

    def plan(self, variants: Sequence[Variant]) -> None:
        waiting = preflight.untrained(variants)
        if waiting:
            # All of them: they are scored on each other's held-out rows.
            plan = [variant.model_dump(mode="json") for variant in variants]
            label = "plan " + ", ".join(variant.name for variant in waiting)
            self._run([{"label": label, "plan": plan, "asked": []}])

    def build_ahead(self, jobs: Sequence[Job]) -> None:
        runs = []
        for job in jobs:
            missing = [SerializedStep.of(step) for step in job.steps if not _is_stored(step)]
            if missing:
                asked = [step.model_dump(mode="json") for step in missing]
                runs.append({"label": job.label, "plan": [], "asked": asked})
        self._run(runs)
        for step in (step for job in jobs for step in job.steps):
            if not _is_stored(step):
                raise ServiceError(
                    f"{step.label}: the worker of {self.deployment} has built it, but in another "
                    "store; see docs/deployments.md on a store that all workers share."
                )

    def _run(self, runs: Sequence[dict[str, Any]]) -> None:
        """Run the deployment with each of these parameters and wait for all."""
        submitted: list[UUID] = []
        try:
            ended = asyncio.run(self._ended(runs, submitted))
        except BaseException:  # this run was cancelled or killed: so are those that it asked for
            _cancel(submitted)
            raise
        for run in ended:
            if run.state is None or not run.state.is_completed():
                said = (run.state and run.state.message) or "it did not complete."
                raise StepProcessError(f"{run.name}: {said}")

    async def _ended(self, runs: Sequence[dict[str, Any]], submitted: list[UUID]) -> list[FlowRun]:
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
            get_run_logger().info("%s: asked of %s", parameters["label"], self.deployment)
        async with get_client() as client:
            return list(await asyncio.gather(*(_end_of(client, run) for run in submitted)))


def placement(gpu_workers: str | None) -> Placement:
    """On the workers of that deployment, or here where none is named."""
    return OnWorkers(gpu_workers) if gpu_workers else Here()


def placement_if_online(gpu_workers: str | None) -> Placement:
    """On the workers of that deployment if one of them is there now, else here."""
    if gpu_workers is None or _is_online(gpu_workers):
        return placement(gpu_workers)
    get_run_logger().info(
        "no worker of %s is online: what is to be built is built here", gpu_workers
    )
    return Here()


def _is_online(deployment: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_deployment_by_name(deployment).work_pool_name
            workers = client.read_workers_for_work_pool(pool) if pool else []
        except ObjectNotFound:
            return False
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


def _queue() -> str | None:
    """The work queue of this run: the steps of an urgent run are urgent."""
    context = FlowRunContext.get()
    return context.flow_run.work_queue_name if context and context.flow_run else None


async def _end_of(client: PrefectClient, run_id: UUID) -> FlowRun:
    """The run once it has ended. Asked for again and again: an event would be missed while the
    server restarts, and a training outlasts many a restart."""
    while True:
        run = await client.read_flow_run(run_id)
        if run.state and run.state.is_final():
            return run
        await asyncio.sleep(POLLED_EVERY_S)


def _is_stored(step: Step) -> bool:
    return store().lookup(step.request) is not None


def _cancel(runs: Sequence[UUID]) -> None:
    with get_client(sync_client=True) as client:
        for run in runs:
            client.set_flow_run_state(run, Cancelling())

"""Puts deployments, work pools, queues and automations on a Prefect server.

What is already there as the files say is left alone, so a second `deploy` changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.importtools import import_object
from prefect.workers.process import ProcessWorker

from chatpipe.loading import deployments_dir, read_mapping
from flows.deployment_file import Definitions, Deployment, WorkPool, load_deployments


def deploy() -> Iterator[str]:
    """Apply deployments/prefect.yaml and deployments/automations/; a line for each thing."""
    found = load_deployments()
    with get_client(sync_client=True) as client:
        yield from _pools(client, found.definitions)
        for deployment in found.deployments:
            yield _deployment(client, deployment)
        for path in sorted((deployments_dir() / "automations").glob("*.yaml")):
            yield _automation(client, AutomationCore.model_validate(read_mapping(path)))


def _pools(client: SyncPrefectClient, definitions: Definitions) -> Iterator[str]:
    for name, pool in definitions.work_pools.items():
        try:
            client.read_work_pool(name)
            yield f"work pool {name}: unchanged"
        except ObjectNotFound:
            client.create_work_pool(_as_created(name, pool))
            yield f"work pool {name}: created"
        for queue, priority in definitions.work_queues.items():
            try:
                known = client.read_work_queue_by_name(queue, work_pool_name=name)
                if known.priority != priority:
                    client.update_work_queue(known.id, priority=priority)
            except ObjectNotFound:
                client.create_work_queue(queue, priority=priority, work_pool_name=name)


def _as_created(name: str, pool: WorkPool) -> WorkPoolCreate:
    template = ProcessWorker.get_default_base_job_template()
    # A run outlives a killed worker only if it does not write into that worker's pipe.
    template["variables"]["properties"]["stream_output"]["default"] = False
    return WorkPoolCreate(
        name=name,
        type="process",
        description=pool.description,
        concurrency_limit=pool.concurrency_limit,
        base_job_template=template,
    )


def _deployment(client: SyncPrefectClient, deployment: Deployment) -> str:
    flow: Flow[..., Any] = import_object(deployment.entrypoint)
    said = f"{flow.name}/{deployment.name}"
    try:
        known = client.read_deployment_by_name(said)
        if known.version == deployment.version():
            return f"{said}: unchanged"
    except ObjectNotFound:
        known = None
    limit = deployment.concurrency_limit
    RunnerDeployment.from_flow(
        flow,
        name=deployment.name,
        description=deployment.description or flow.description,
        parameters=deployment.parameters,
        tags=list(deployment.tags),
        version=deployment.version(),
        schedules=[
            Cron(item.cron, timezone=item.timezone, slug=item.slug, active=item.active)
            for item in deployment.schedules
        ],
        concurrency_limit=ConcurrencyLimitConfig(**limit.model_dump()) if limit else None,
        work_pool_name=deployment.work_pool.name,
        work_queue_name=deployment.work_pool.work_queue_name,
        entrypoint_type=EntrypointType.MODULE_PATH,
    ).apply()
    return f"{said}: {'updated' if known else 'created'}"


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    said = f"automation {wanted.name!r}"
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return f"{said}: created"
    same = wanted.model_dump(mode="json")
    if known[0].model_dump(mode="json", include=set(same)) == same:
        return f"{said}: unchanged"
    client.update_automation(known[0].id, wanted)
    return f"{said}: updated"

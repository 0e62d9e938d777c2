"""Puts deployments, work pools, queues and automations on a Prefect server.

Objects that are as the files say are not updated, so a second `deploy` changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from chatpipe.errors import ConfigError
from chatpipe.server.automations_file import find_notification_block, load_automations
from chatpipe.server.deployed_state import apply_schedules, apply_settings
from chatpipe.server.deployments_file import (
    Definitions,
    Deployment,
    DeploymentFile,
    WorkPool,
    load_deployments,
    named_deployments,
)
from chatpipe.study.files import deployments_dir


def deploy() -> Iterator[str]:
    """Apply deployments/prefect.yaml and deployments/automations/; yield a line for each object."""
    file = load_deployments()
    with get_client(sync_client=True) as client:
        automations = load_automations(partial(find_notification_block, client))
        yield from _apply(client, file)
        for automation in automations:
            yield _apply_automation(client, automation)


def deploy_named(name_or_path: str, gpu_workers: str | None = None) -> Iterator[str]:
    """Apply the deployments of one variant or study; see `named_deployments`."""
    file = named_deployments(name_or_path, gpu_workers)
    with get_client(sync_client=True) as client:
        yield from _apply(client, file)


def _apply(client: SyncPrefectClient, file: DeploymentFile) -> Iterator[str]:
    prepared = [_Prepared.of(deployment) for deployment in file.deployments]
    yield from _apply_pools(client, file.definitions)
    for deployment in prepared:
        yield _apply_deployment(client, deployment)


def _apply_pools(client: SyncPrefectClient, definitions: Definitions) -> Iterator[str]:
    for name, pool in definitions.work_pools.items():
        yield f"work pool {name}: {_apply_pool(client, _new_pool(name, pool))}"
        for queue, priority in definitions.work_queues.items():
            try:
                current = client.read_work_queue_by_name(queue, work_pool_name=name)
                if current.priority != priority:
                    client.update_work_queue(current.id, priority=priority)
                    yield f"work queue {name}/{queue}: updated"
            except ObjectNotFound:
                client.create_work_queue(queue, priority=priority, work_pool_name=name)


def _apply_pool(client: SyncPrefectClient, desired: WorkPoolCreate) -> str:
    """Create or update the pool; of its job template, only `stream_output` is changed."""
    try:
        current = client.read_work_pool(desired.name)
    except ObjectNotFound:
        client.create_work_pool(desired)
        return "created"
    template = copy.deepcopy(current.base_job_template)
    properties = template.get("variables", {}).get("properties", {})
    if "stream_output" in properties:
        properties["stream_output"]["default"] = False
    current_fields = (
        current.description or "",
        current.concurrency_limit,
        current.base_job_template,
    )
    if current_fields == (desired.description or "", desired.concurrency_limit, template):
        return "unchanged"
    changed = WorkPoolUpdate(
        description=desired.description,
        concurrency_limit=desired.concurrency_limit,
        base_job_template=template,
    )
    client.update_work_pool(desired.name, changed)
    return "updated"


def _new_pool(name: str, pool: WorkPool) -> WorkPoolCreate:
    template = ProcessWorker.get_default_base_job_template()
    # A run survives a killed worker only if it does not write into that worker's pipe.
    template["variables"]["properties"]["stream_output"]["default"] = False
    return WorkPoolCreate(
        name=name,
        type="process",
        description=pool.description,
        concurrency_limit=pool.concurrency_limit,
        base_job_template=template,
    )


@dataclass(frozen=True)
class _Prepared:
    """A deployment and its flow, checked against each other."""

    deployment: Deployment
    flow: Flow[..., Any]
    version: str

    @classmethod
    def of(cls, deployment: Deployment) -> _Prepared:
        """Import the flow; ConfigError where it is missing or does not take these parameters."""
        key = f"{deployments_dir() / 'prefect.yaml'}: deployments.{deployment.name}"
        try:
            # Prefect's own import would look into the current directory first.
            module, _, name = deployment.entrypoint.rpartition(".")
            flow: Flow[..., Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError([f"{key}.entrypoint: {error}."]) from None
        schema = parameter_schema(flow).model_dump_for_openapi()
        unknown = sorted(deployment.parameters.keys() - schema["properties"].keys())
        if unknown:
            names = ", ".join(schema["properties"])
            fault = f"unknown parameters {', '.join(unknown)}; the flow takes {names}."
            raise ConfigError([f"{key}.parameters: {fault}"])
        return cls(deployment, flow, deployment.version(schema))

    def runner_deployment(self) -> RunnerDeployment:
        """Return the deployment for Prefect, without its schedules."""
        deployment = self.deployment
        limit = deployment.concurrency_limit
        return RunnerDeployment.from_flow(
            self.flow,
            name=deployment.name,
            description=deployment.description or self.flow.description,
            parameters=deployment.parameters,
            tags=list(deployment.tags),
            version=self.version,
            concurrency_limit=ConcurrencyLimitConfig(**limit.model_dump()) if limit else None,
            work_pool_name=deployment.work_pool.name,
            work_queue_name=deployment.work_pool.work_queue_name,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )


def _apply_deployment(client: SyncPrefectClient, prepared: _Prepared) -> str:
    name = f"{prepared.flow.name}/{prepared.deployment.name}"
    desired = prepared.runner_deployment()
    try:
        current = client.read_deployment_by_name(name)
    except ObjectNotFound:
        desired.apply()
        current = client.read_deployment_by_name(name)
        apply_schedules(client, current, prepared.deployment.schedules)
        return f"{name}: created"
    # Schedules first: the version, which lists those of the last `deploy`, is updated after them.
    changes = apply_schedules(client, current, prepared.deployment.schedules)
    changes += apply_settings(client, current, desired)
    return f"{name}: updated ({', '.join(changes)})" if changes else f"{name}: unchanged"


def _apply_automation(client: SyncPrefectClient, desired: AutomationCore) -> str:
    name = f"automation {desired.name!r}"
    current = client.read_automations_by_name(desired.name)
    if not current:
        client.create_automation(desired)
        return f"{name}: created"
    if "enabled" not in desired.model_fields_set:  # keep the state on the server
        desired = desired.model_copy(update={"enabled": current[0].enabled})
    if is_deployed(current[0], desired):
        return f"{name}: unchanged"
    client.update_automation(current[0].id, desired)
    return f"{name}: updated"


def is_deployed(current: Automation, desired: AutomationCore) -> bool:
    """Whether the server has the automation as it is desired. Events are a set, whose order in JSON
    differs by chance."""
    fields = desired.model_dump()
    return current.model_dump(include=set(fields)) == fields

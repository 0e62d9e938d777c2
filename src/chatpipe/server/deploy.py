"""Puts deployments, work pools, queues and automations on a Prefect server.

What is already there as the files say is left alone, so a second `deploy` changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from chatpipe.errors import ConfigError
from chatpipe.server.automations_file import load_automations
from chatpipe.server.deployed_state import apply_schedules, apply_settings
from chatpipe.server.deployments_file import Definitions, Deployment, WorkPool, load_deployments
from chatpipe.study.loading import deployments_dir


def deploy() -> Iterator[str]:
    """Apply deployments/prefect.yaml and deployments/automations/; a line for each thing."""
    found = load_deployments()
    automations = load_automations()
    prepared = [_Prepared.of(deployment) for deployment in found.deployments]
    with get_client(sync_client=True) as client:
        yield from _pools(client, found.definitions)
        for deployment in prepared:
            yield _deployment(client, deployment)
        for automation in automations:
            yield _automation(client, automation)


def _pools(client: SyncPrefectClient, definitions: Definitions) -> Iterator[str]:
    for name, pool in definitions.work_pools.items():
        yield f"work pool {name}: {_pool(client, _as_created(name, pool))}"
        for queue, priority in definitions.work_queues.items():
            try:
                known = client.read_work_queue_by_name(queue, work_pool_name=name)
                if known.priority != priority:
                    client.update_work_queue(known.id, priority=priority)
                    yield f"work queue {name}/{queue}: updated"
            except ObjectNotFound:
                client.create_work_queue(queue, priority=priority, work_pool_name=name)


def _pool(client: SyncPrefectClient, wanted: WorkPoolCreate) -> str:
    """What became of it; of its template only `stream_output` is ours to set."""
    try:
        known = client.read_work_pool(wanted.name)
    except ObjectNotFound:
        client.create_work_pool(wanted)
        return "created"
    template = copy.deepcopy(known.base_job_template)
    properties = template.get("variables", {}).get("properties", {})
    if "stream_output" in properties:
        properties["stream_output"]["default"] = False
    before = (known.description or "", known.concurrency_limit, known.base_job_template)
    if before == (wanted.description or "", wanted.concurrency_limit, template):
        return "unchanged"
    changed = WorkPoolUpdate(
        description=wanted.description,
        concurrency_limit=wanted.concurrency_limit,
        base_job_template=template,
    )
    client.update_work_pool(wanted.name, changed)
    return "updated"


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


@dataclass(frozen=True)
class _Prepared:
    """A deployment of the file with its flow, checked against each other."""

    deployment: Deployment
    flow: Flow[..., Any]
    version: str

    @classmethod
    def of(cls, deployment: Deployment) -> _Prepared:
        """ConfigError where the flow is not there or does not take these parameters."""
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
            known = ", ".join(schema["properties"])
            said = f"unknown parameters {', '.join(unknown)}; the flow takes {known}."
            raise ConfigError([f"{key}.parameters: {said}"])
        return cls(deployment, flow, deployment.version(schema))

    def runner_deployment(self) -> RunnerDeployment:
        """The deployment as Prefect creates it, but for its schedules."""
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


def _deployment(client: SyncPrefectClient, prepared: _Prepared) -> str:
    name = f"{prepared.flow.name}/{prepared.deployment.name}"
    desired = prepared.runner_deployment()
    try:
        current = client.read_deployment_by_name(name)
    except ObjectNotFound:
        desired.apply()
        current = client.read_deployment_by_name(name)
        apply_schedules(client, current, prepared.deployment.schedules)
        return f"{name}: created"
    # Schedules first: the version, which names those of the last `deploy`, is changed after them.
    changes = apply_schedules(client, current, prepared.deployment.schedules)
    changes += apply_settings(client, current, desired)
    return f"{name}: updated ({', '.join(changes)})" if changes else f"{name}: unchanged"


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    name = f"automation {wanted.name!r}"
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return f"{name}: created"
    if "enabled" not in wanted.model_fields_set:  # as it was left on the server
        wanted = wanted.model_copy(update={"enabled": known[0].enabled})
    same = wanted.model_dump(mode="json")
    if known[0].model_dump(mode="json", include=set(same)) == same:
        return f"{name}: unchanged"
    client.update_automation(known[0].id, wanted)
    return f"{name}: updated"

"""A run's parameters, with sections that were given in part completed from its deployment.

Prefect lays what a run is given over its deployment's parameters at the top level only, so
`-p training='{"epochs": 1}'` alone would reset every other key of `training` to our defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from flows.parameter_merging import differences, merge_sections


def run_parameters(validated: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the current run, completed from its deployment and shown in its log.

    Args:
        validated: The parameters as the flow received them; they are returned as they are when
            the run belongs to no deployment.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None or flow_run.deployment_id is None:
        return dict(validated)
    deployed = _deployment_parameters(flow_run.deployment_id)
    parameters = merge_sections(deployed, flow_run.parameters)
    changes = list(differences(deployed, parameters))
    get_run_logger().info("parameters: %s", ", ".join(changes) or "those of the deployment")
    return parameters


def _deployment_parameters(deployment_id: UUID) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment(deployment_id).parameters
        except ObjectNotFound:  # deleted since; the run was given all it needs
            return {}

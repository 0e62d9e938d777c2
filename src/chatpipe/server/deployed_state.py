"""Compares a deployment on the server with the file, and updates it.

Schedules are identified by their slugs; those that were added on the server are not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment

from chatpipe.server.deployments_file import Scheduled


def apply_settings(
    client: SyncPrefectClient, current: DeploymentResponse, desired: RunnerDeployment
) -> list[str]:
    """Update fields that differ, without schedules; return their names."""
    settings, on_server = _desired_settings(desired), _current_settings(current)
    changes = [name for name, value in settings.items() if on_server[name] != value]
    if changes:
        client.update_deployment(current.id, DeploymentUpdate.model_validate(settings))
    # The version also differs when only this program has changed, which need not be printed.
    return [name for name in changes if name != "version"] or changes


def apply_schedules(
    client: SyncPrefectClient, current: DeploymentResponse, schedules: Sequence[Scheduled]
) -> list[str]:
    """Create, update and delete the schedules of the file; return a phrase for each change."""
    changes = []
    on_server = {item.slug: item for item in current.schedules if item.slug}
    for schedule in schedules:
        current_schedule = on_server.get(schedule.slug)
        if current_schedule is None:
            client.create_deployment_schedules(current.id, [_new_schedule(schedule)])
        elif _differs(current_schedule, schedule):
            client.update_deployment_schedule(
                current.id,
                current_schedule.id,
                active=_active(current_schedule, schedule),
                schedule=_cron(schedule),
                parameters={},
            )
        else:
            continue
        changes.append(f"schedule {schedule.slug}")
    for slug in _deployed_slugs(current) - {schedule.slug for schedule in schedules}:
        if slug in on_server:
            client.delete_deployment_schedule(current.id, on_server[slug].id)
            changes.append(f"schedule {slug} deleted")
    return changes


def _desired_settings(desired: RunnerDeployment) -> dict[str, Any]:
    """Return the fields under the names that DeploymentUpdate has."""
    dumped = desired.model_dump(mode="json")
    schema = desired._parameter_openapi_schema.model_dump(exclude_unset=True)
    names = (
        "version",
        "description",
        "parameters",
        "entrypoint",
        "work_pool_name",
        "work_queue_name",
        "concurrency_limit",
        "concurrency_options",
    )
    return {
        **{name: dumped[name] for name in names},
        "tags": sorted(dumped["tags"]),
        "parameter_openapi_schema": schema,
        "path": None,
        "pull_steps": [],
    }


def _current_settings(current: DeploymentResponse) -> dict[str, Any]:
    dumped = current.model_dump(mode="json")
    limit = dumped["global_concurrency_limit"]
    return {
        **dumped,
        "tags": sorted(dumped["tags"]),
        "concurrency_limit": limit["limit"] if limit else None,
        "pull_steps": dumped["pull_steps"] or [],
    }


def _deployed_slugs(current: DeploymentResponse) -> set[str]:
    """Return the slugs of the schedules of the last `deploy`, which the version lists."""
    return set((current.version or "").split("+")[1:])


def _differs(current_schedule: DeploymentSchedule, schedule: Scheduled) -> bool:
    return (
        current_schedule.schedule != _cron(schedule)
        or current_schedule.active != _active(current_schedule, schedule)
        or bool(current_schedule.parameters)
    )


def _active(current_schedule: DeploymentSchedule, schedule: Scheduled) -> bool:
    """Whether the schedule is active: as the file says, or else as on the server."""
    return schedule.active if "active" in schedule.model_fields_set else current_schedule.active


def _new_schedule(schedule: Scheduled) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=_cron(schedule), active=schedule.active, slug=schedule.slug
    )


def _cron(schedule: Scheduled) -> CronSchedule:
    return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)

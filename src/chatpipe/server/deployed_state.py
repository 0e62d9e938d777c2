"""A deployment as the server has it, compared with the file and brought in line with it.

Schedules are known by their slugs: those that somebody added on the server are left alone.
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
    """Update what differs from the desired deployment, schedules aside; the names of what did."""
    settings, on_server = _desired_settings(desired), _current_settings(current)
    changes = [name for name, value in settings.items() if on_server[name] != value]
    if changes:
        client.update_deployment(current.id, DeploymentUpdate.model_validate(settings))
    # A version alone is another one when this program has changed: nothing that a reader looks for.
    return [name for name in changes if name != "version"] or changes


def apply_schedules(
    client: SyncPrefectClient, current: DeploymentResponse, schedules: Sequence[Scheduled]
) -> list[str]:
    """Create, update and delete schedules with slugs of ours; a word for each that differed."""
    changes = []
    on_server = {item.slug: item for item in current.schedules if item.slug}
    for schedule in schedules:
        known = on_server.get(schedule.slug)
        if known is None:
            client.create_deployment_schedules(current.id, [_as_created(schedule)])
        elif _differs(known, schedule):
            client.update_deployment_schedule(
                current.id,
                known.id,
                active=_active(known, schedule),
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
    """Fields of the server's API, with the names that an update of a deployment has."""
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
    """Slugs of the schedules that the last `deploy` put there: the version names them."""
    return set((current.version or "").split("+")[1:])


def _differs(known: DeploymentSchedule, schedule: Scheduled) -> bool:
    return (
        known.schedule != _cron(schedule)
        or known.active != _active(known, schedule)
        or bool(known.parameters)
    )


def _active(known: DeploymentSchedule, schedule: Scheduled) -> bool:
    """Whether it runs: as the file says, or else as somebody has left it on the server."""
    return schedule.active if "active" in schedule.model_fields_set else known.active


def _as_created(schedule: Scheduled) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        schedule=_cron(schedule), active=schedule.active, slug=schedule.slug
    )


def _cron(schedule: Scheduled) -> CronSchedule:
    return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)

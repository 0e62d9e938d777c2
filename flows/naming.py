"""Names of flow runs, and the environment of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

from prefect import runtime

from chatpipe.errors import ConfigError
from chatpipe.runtime.parent_watch import end_with_parent
from chatpipe.runtime.variables import variable_faults
from flows.server_settings import use_server_settings


def flow_run_name(parameter: str) -> Callable[[], str]:
    """Return a function that names a run by a parameter and the time: "smol 2026-11-23 09:05"."""

    def name() -> str:
        run = runtime.flow_run
        started = run.scheduled_start_time or datetime.now(UTC)
        return f"{run.parameters[parameter]} {started:%Y-%m-%d %H:%M}"

    return name


def check_home() -> None:
    """Let a worker's run end with the worker, check its environment, and complete it.

    Otherwise the next worker would train at the same time. ConfigError where a worker does not set
    CHATPIPE_HOME (Prefect removes a run's working directory), or where a variable or a setting on
    the server is invalid.
    """
    if runtime.deployment.id:
        end_with_parent(os.getppid())
    if runtime.deployment.id and not os.environ.get("CHATPIPE_HOME"):
        raise ConfigError(
            ["CHATPIPE_HOME: set it in the worker's environment to the directory of the store."]
        )
    if faults := variable_faults():
        raise ConfigError(faults)
    if runtime.deployment.id:
        use_server_settings()

"""What flow runs are called (the variant or study, and when it was started), and whose store
they use."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

from prefect import runtime

from chatpipe.errors import ConfigError
from chatpipe.runtime.parent_watch import end_with_parent
from chatpipe.runtime.variables import variable_faults


def flow_run_name(parameter: str) -> Callable[[], str]:
    """A run's name: that parameter and the time, like "smol-merge 2026-11-23 09:05"."""

    def name() -> str:
        run = runtime.flow_run
        started = run.scheduled_start_time or datetime.now(UTC)
        return f"{run.parameters[parameter]} {started:%Y-%m-%d %H:%M}"

    return name


def check_home() -> None:
    """ConfigError where a worker does not say where the store is (a run's directory is removed
    afterwards), or where its environment cannot be. A run of a worker ends with it, or the next
    worker would train beside it."""
    if runtime.deployment.id:
        end_with_parent(os.getppid())
    if runtime.deployment.id and not os.environ.get("CHATPIPE_HOME"):
        raise ConfigError(["CHATPIPE_HOME: a worker's environment must say where the store is."])
    if faults := variable_faults():
        raise ConfigError(faults)

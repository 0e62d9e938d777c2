"""What flow runs are called: the variant or study, and when it was started."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from prefect.runtime import flow_run


def named_by(parameter: str) -> Callable[[], str]:
    """A run's name: that parameter and the time, like "smol-merge 2026-11-23 09:05"."""

    def name() -> str:
        started = flow_run.scheduled_start_time or datetime.now(UTC)
        return f"{flow_run.parameters[parameter]} {started:%Y-%m-%d %H:%M}"

    return name

"""What our commands set for Prefect, unless the user did."""

from __future__ import annotations

import os

# No telemetry, no server chatter.
ALWAYS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}
# Short lines for a terminal, which tells of a run in its own way. Services log everything.
TERMINAL = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
}


def prepare() -> None:
    """Set them for this process."""
    os.environ.update({**ALWAYS, **TERMINAL, **os.environ})


def of_services() -> dict[str, str]:
    """This process's environment without what is for the terminal."""
    return {name: value for name, value in os.environ.items() if TERMINAL.get(name) != value}

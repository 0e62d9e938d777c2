"""What our commands set for Prefect, unless the user did, and for the processes they start."""

from __future__ import annotations

import os

from chatpipe.utils.import_path import leave_current_directory
from chatpipe.utils.user_paths import expanded

# No telemetry, no server chatter.
ALWAYS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # `python -m` does not look into the current directory: another project's tasks.py is not ours.
    "PYTHONSAFEPATH": "1",
}
# Short lines for a terminal, which tells of a run in its own way. Services log everything.
TERMINAL = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
}
PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy")
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def prepare() -> None:
    """Set them for this process."""
    os.environ.update({**ALWAYS, **TERMINAL, **os.environ})
    bypass_proxies()
    leave_current_directory()


def service_environment() -> dict[str, str]:
    """This process's environment without what is for the terminal."""
    return {name: value for name, value in os.environ.items() if TERMINAL.get(name) != value}


def make_places_absolute() -> None:
    """Workers, servers and runs that this process starts run in other directories."""
    for name in ("CHATPIPE_HOME", "CHATPIPE_DEPLOYMENTS", "CHATPIPE_SHARED_STORE"):
        place = os.environ.get(name)
        if place and "://" not in place:
            os.environ[name] = str(expanded(place).absolute())


def bypass_proxies() -> None:
    """Have no proxy between this machine and its own server, whatever is set for the internet."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" not in hosts:
        value = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
        os.environ.update({"no_proxy": value, "NO_PROXY": value})


def uses_proxy() -> bool:
    """Whether a proxy is set."""
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXY_NAMES)


def proxy_faults() -> list[str]:
    """A sentence for each proxy variable that no client here can use: all of them would fail."""
    faults = []
    for name in PROXY_NAMES:
        for spelled in (name, name.upper()):
            scheme, separator, _ = os.environ.get(spelled, "").partition("://")
            if separator and scheme.lower() not in PROXY_SCHEMES:
                known = ", ".join(PROXY_SCHEMES)
                faults.append(f"{spelled}: {scheme}:// is no proxy that can be used; use {known}.")
    return faults

"""Environment variables that commands set, unless the user did, for Prefect and subprocesses."""

from __future__ import annotations

import os

from chatpipe.utils.import_path import leave_current_directory
from chatpipe.utils.user_paths import expanded

# No telemetry, fewer log lines of the server.
ALWAYS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # `python -m` then does not import from the current directory, which may have a tasks.py.
    "PYTHONSAFEPATH": "1",
}
# Short log lines, for terminals only: services log everything.
TERMINAL = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
}
PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy")
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def prepare() -> None:
    """Set the variables for this process."""
    os.environ.update({**ALWAYS, **TERMINAL, **os.environ})
    bypass_proxies()
    leave_current_directory()


def service_environment() -> dict[str, str]:
    """Return this process's environment without the variables for terminals."""
    return {name: value for name, value in os.environ.items() if TERMINAL.get(name) != value}


def make_paths_absolute() -> None:
    """Make paths in variables absolute: subprocesses run in other directories."""
    for name in ("CHATPIPE_HOME", "CHATPIPE_DEPLOYMENTS", "CHATPIPE_SHARED_STORE"):
        path = os.environ.get(name)
        if path and "://" not in path:
            os.environ[name] = str(expanded(path).absolute())


def bypass_proxies() -> None:
    """Exclude this machine's own addresses from any proxy."""
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in no_proxy.split(",") if host.strip()]
    if "*" not in hosts:
        value = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
        os.environ.update({"no_proxy": value, "NO_PROXY": value})


def uses_proxy() -> bool:
    """Whether a proxy is set."""
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXY_NAMES)


def proxy_faults() -> list[str]:
    """Return a sentence for each proxy variable that no HTTP client here can use."""
    faults = []
    for name in PROXY_NAMES:
        for variable in (name, name.upper()):
            scheme, separator, _ = os.environ.get(variable, "").partition("://")
            if separator and scheme.lower() not in PROXY_SCHEMES:
                schemes = ", ".join(PROXY_SCHEMES)
                faults.append(f"{variable}: {scheme}:// is not a supported proxy; use {schemes}.")
    return faults

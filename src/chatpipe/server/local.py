"""Starts and ends a local Prefect server and its workers in the background."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from chatpipe.errors import ServiceError
from chatpipe.server.environment import service_environment
from chatpipe.server.processes import (
    Service,
    end,
    home_of_server,
    orphaned_processes,
    recorded_services,
    run_count,
    service_directory,
)
from chatpipe.store.paths import home
from chatpipe.study.files import deployments_dir
from chatpipe.utils import nvidia_smi

HOST = "127.0.0.1"  # a server without accounts listens to this machine only
STARTS_WITHIN_S = 120
RUNS_THAT_WAIT = 2  # runs of the CPU worker that may wait for steps of one GPU at once

# Without a proxy: the server is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

SERVER_ENVIRONMENT = {
    # Leases of concurrency slots survive a restart of the server; in memory they would be lost,
    # and the runs that hold them cancelled.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}
WORKER_ENVIRONMENT = {
    "PREFECT_CLIENT_MAX_RETRIES": "9",  # about 17 minutes: longer than a server's restart
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}


def api_url(port: int) -> str:
    """Return the value of PREFECT_API_URL for a server at that port."""
    return f"http://{HOST}:{port}/api"


def up(port: int) -> Iterator[str]:
    """Start the server, wait until it answers, deploy, start the workers; yield a line for each."""
    with _one_at_a_time():
        yield from _up(port)


def _up(port: int) -> Iterator[str]:
    server = _server(port)
    url = api_url(port)
    running = server.process()
    if running and str(port) not in running.cmdline():
        raise ServiceError(
            f"a server that `chatpipe up` started already runs on another port than {port}; "
            "end it with `chatpipe down`, or give its port."
        )
    yield from _end_orphans()
    if running is None and _is_listening(port):
        yield _check_other_server(url, port)
    else:
        yield from check_servers_database(server)
        started = server.start()
        _wait_until_healthy(server, url)
        yield f"server: {'started' if started else 'runs already'}: http://{HOST}:{port}"
    yield from _deploy(url)
    for worker in _workers(url):
        yield f"{worker.name}: {'started' if worker.start() else 'runs already'}"


def _check_other_server(url: str, port: int) -> str:
    """Return a line on the server that already listens there; ServiceError if it is unusable."""
    remedy = f"choose another port: chatpipe up --port {port + 1}."
    if not healthy(url):
        raise ServiceError(f"port {port}: another program listens there; {remedy}")
    owner = home_of_server(port)
    if owner and owner != str(home().resolve()):
        raise ServiceError(
            f"port {port}: the server of CHATPIPE_HOME={owner} listens there, and its workers use "
            f"another store; {remedy}"
        )
    return f"server: one that chatpipe did not start answers at {url}; it is used."


def down() -> Iterator[str]:
    """End what `up` started, workers first, and orphans of earlier workers; yield lines."""
    with _one_at_a_time():
        yield from _down()


def _down() -> Iterator[str]:
    services = recorded_services()
    lines = list(_end_orphans())  # first: runs report to the server how they ended
    yield from lines
    for service in services:
        running = service.process() is not None
        runs = service.stop()
        consequence = (
            f", and with it {runs} run(s); start them again, and they resume" if runs else ""
        )
        yield f"{service.name}: {'ended' if running else 'had already ended'}{consequence}"
    yield from _end_orphans()
    if not services and not lines:
        yield "nothing that chatpipe started is running"


def _end_orphans() -> Iterator[str]:
    processes = orphaned_processes()
    if processes:
        runs = run_count(processes)
        end(processes)
        consequence = (
            f", {runs} run(s) among them; start them again, and they resume" if runs else ""
        )
        yield f"orphans of an ended service: {len(processes)} process(es) ended{consequence}"


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, port)) == 0


def check_servers_database(server: Service) -> Iterator[str]:
    """ServiceError where Prefect cannot use its database or its directory; yield a line where the
    database was deleted.

    In a process of its own, because Prefect's settings must be those of the server.
    """
    result = subprocess.run(
        [sys.executable, "-P", "-m", "chatpipe.server.database_check"],
        env=service_environment(),
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise ServiceError(result.stderr.strip().splitlines()[-1])
    missing = result.stdout.strip()
    if missing and server.log.exists():
        state = (
            "was deleted while the server runs: `chatpipe down` and `chatpipe up` make a new one"
            if server.process()
            else "was deleted: a new one is made, without a record of earlier runs"
        )
        yield f"database: {missing} {state}; the artifacts of runs are still in the store"


def healthy(url: str) -> bool:
    """Whether a Prefect server answers at that address."""
    try:
        with _OPENER.open(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def gpus() -> list[str]:
    """Return the GPUs for workers, by index or UUID: all, or those in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [device.strip() for device in visible.split(",")]
        return [device for device in devices if device not in ("", "-1")]
    return nvidia_smi.query("index")


def _server(port: int) -> Service:
    command = ("prefect", "server", "start", "--host", HOST, "--port", str(port))
    # Without it the dashboard looks for its server at Prefect's default port.
    return Service("server", command, {**SERVER_ENVIRONMENT, "PREFECT_UI_API_URL": api_url(port)})


def _workers(url: str) -> Iterator[Service]:
    """One worker per GPU, which sees that GPU only and takes one run at a time; one for the CPU,
    most of whose runs only wait for steps on GPUs."""
    environment = {**WORKER_ENVIRONMENT, **_path_environment(), "PREFECT_API_URL": url}
    # CUDA numbers the fastest GPU first, as in the user's list; nvidia-smi numbers by bus.
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    devices = gpus()
    for device in devices:
        gpu_environment = {**environment, **order, "CUDA_VISIBLE_DEVICES": device}
        yield Service(
            f"worker-gpu{device}", _worker_command("gpu", f"gpu{device}"), gpu_environment
        )
    cpu_environment = {**environment, "CUDA_VISIBLE_DEVICES": ""} if devices else environment
    runs = RUNS_THAT_WAIT * len(devices) + 1
    yield Service("worker-cpu", _worker_command("cpu", "cpu", runs), cpu_environment)


def _path_environment() -> dict[str, str]:
    """Paths for runs, which have a working directory of their own."""
    return {"CHATPIPE_HOME": str(home()), "CHATPIPE_DEPLOYMENTS": str(deployments_dir())}


def _worker_command(pool: str, name: str, runs: int = 1) -> tuple[str, ...]:
    start = (
        "chatpipe.server.worker",
        "worker",
        "start",
        "--pool",
        pool,
        "--name",
        name,
        "--limit",
        str(runs),
    )
    return (*start, "--type", "process", "--install-policy", "never")


def _deploy(url: str) -> Iterator[str]:
    """`deploy` in a process of its own: Prefect reads its settings once, when it is imported."""
    result = subprocess.run(
        [sys.executable, "-P", "-m", "chatpipe", "deploy"],
        env={**service_environment(), "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        sentences = result.stderr.strip().splitlines()
        raise ServiceError(*(sentences or ["deploy failed without a message."]))
    yield from (line for line in result.stdout.splitlines() if not line.endswith("unchanged"))


def _wait_until_healthy(server: Service, url: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not healthy(url):
        if server.process() is None:
            raise ServiceError(f"the server ended at once; {server.log} says why: {_tail(server)}")
        if time.monotonic() > deadline:
            raise ServiceError(f"the server does not answer at {url}; look into {server.log}.")
        time.sleep(0.2)


def _tail(service: Service) -> str:
    lines = service.log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "(it is empty)"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold a lock: of two `up` at once, the second waits and then uses the first one's server."""
    service_directory().mkdir(parents=True, exist_ok=True)
    with (service_directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when the process ends
        yield

"""A local Prefect server and its workers in the background: started once, found again, ended.

A process is ours if it is written down in `<home>/service/` with the moment it was started.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import psutil

from chatpipe.artifacts import home
from chatpipe.errors import ServiceError
from chatpipe.loading import deployments_dir
from flows.environment import of_services

HOST = "127.0.0.1"  # a server without accounts is for this machine alone
STARTS_WITHIN_S = 120
ENDS_WITHIN_S = 30
RUNS_THAT_WAIT = 2  # for each GPU: runs of the CPU's worker that may wait for its steps at once

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


@dataclass(frozen=True)
class Service:
    """A background process: its name, what it runs, with what environment beside ours."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return _folder() / f"{self.name}.log"

    @property
    def _record(self) -> Path:
        return _folder() / f"{self.name}.json"

    def process(self) -> psutil.Process | None:
        """The running process that was started under this name."""
        try:
            recorded = json.loads(self._record.read_text("utf-8"))
            process = psutil.Process(recorded["pid"])
            same = abs(process.create_time() - recorded["started"]) < 1
            running = same and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None
        return process if running else None

    def start(self) -> bool:
        """Start it, unless it runs; whether it was started."""
        if self.process():
            return False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                env={**of_services(), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it outlives this terminal
            )
        started = psutil.Process(child.pid).create_time()
        self._record.write_text(json.dumps({"pid": child.pid, "started": started}), "utf-8")
        return True

    def runs(self) -> int:
        """How many flow runs it has under way, each in a process of its own."""
        process = self.process()
        family = process.children(recursive=True) if process else []
        return sum("prefect.engine" in _command(member) for member in family)

    def stop(self) -> bool:
        """End it, and what it started; whether it ran."""
        process = self.process()
        if process:
            family = [process, *process.children(recursive=True)]
            for member in family:
                _signal(member, "terminate")
            _, left = psutil.wait_procs(family, timeout=ENDS_WITHIN_S)
            for member in left:
                _signal(member, "kill")
        self._record.unlink(missing_ok=True)
        return process is not None


def api_url(port: int) -> str:
    """The address that PREFECT_API_URL has to name."""
    return f"http://{HOST}:{port}/api"


def up(port: int) -> Iterator[str]:
    """Start the server, wait until it answers, deploy, start the workers; a line for each."""
    with _one_at_a_time():
        yield from _up(port)


def _up(port: int) -> Iterator[str]:
    server = _server(port)
    url = api_url(port)
    running = server.process()
    if running and str(port) not in running.cmdline():
        raise ServiceError(
            f"a server that `chatpipe up` started runs already, on another port than {port}; "
            "end it with `chatpipe down`, or name its port."
        )
    if running is None and healthy(url):
        yield f"server: one that chatpipe did not start answers at {url}; it is used."
    else:
        started = server.start()
        _wait_until_healthy(server, url)
        yield f"server: {'started' if started else 'runs already'}: http://{HOST}:{port}"
    yield from _deployed(url)
    for worker in _workers(url):
        yield f"{worker.name}: {'started' if worker.start() else 'runs already'}"


def down() -> Iterator[str]:
    """End what `up` started, workers first; a line for each."""
    names = sorted((path.stem for path in _folder().glob("*.json")), reverse=True)
    for name in names:
        service = Service(name, (), {})
        lost = service.runs()
        ended = "ended" if service.stop() else "was not running any more"
        with_it = f", and with it {lost} run(s): start them again, they go on" if lost else ""
        yield f"{name}: {ended}{with_it}"
    if not names:
        yield "nothing that chatpipe started is running"


def healthy(url: str) -> bool:
    """Whether a Prefect server answers at that address."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def gpus() -> list[str]:
    """The GPUs that workers may take, by index or UUID: all, or those the user left visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [device.strip() for device in visible.split(",")]
        return [device for device in named if device not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


def _server(port: int) -> Service:
    command = ("prefect", "server", "start", "--host", HOST, "--port", str(port))
    # Without it the dashboard looks for its server at Prefect's default port.
    return Service("server", command, {**SERVER_ENVIRONMENT, "PREFECT_UI_API_URL": api_url(port)})


def _workers(url: str) -> Iterator[Service]:
    """One worker a GPU, which sees no other and takes one run at a time; one for the CPU, most of
    whose runs only wait where there are GPUs."""
    environment = {**WORKER_ENVIRONMENT, **_places(), "PREFECT_API_URL": url}
    # CUDA numbers the fastest first, as the user's own list does, nvidia-smi as on the bus.
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    devices = gpus()
    for device in devices:
        seen = {**environment, **order, "CUDA_VISIBLE_DEVICES": device}
        yield Service(f"worker-gpu{device}", _worker_command("gpu", f"gpu{device}"), seen)
    unseen = {**environment, "CUDA_VISIBLE_DEVICES": ""} if devices else environment
    runs = RUNS_THAT_WAIT * len(devices) + 1
    yield Service("worker-cpu", _worker_command("cpu", "cpu", runs), unseen)


def _places() -> dict[str, str]:
    """Where a run, which is in a directory of its own, finds what this process finds."""
    return {"CHATPIPE_HOME": str(home()), "CHATPIPE_DEPLOYMENTS": str(deployments_dir())}


def _worker_command(pool: str, name: str, runs: int = 1) -> tuple[str, ...]:
    start = ("prefect", "worker", "start", "--pool", pool, "--name", name, "--limit", str(runs))
    return (*start, "--type", "process", "--install-policy", "never")


def _deployed(url: str) -> Iterator[str]:
    """`deploy` in a process of its own: Prefect reads its settings once, when it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "deploy"],
        env={**of_services(), "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ServiceError(done.stderr.strip() or "deploy failed without a word.")
    yield from (line for line in done.stdout.splitlines() if not line.endswith("unchanged"))


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


def _signal(process: psutil.Process, how: str) -> None:
    with suppress(psutil.NoSuchProcess):
        getattr(process, how)()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two `up` at once start one server: the second waits, and finds the first one's."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # dropped by the kernel with the process
        yield


def _folder() -> Path:
    return home() / "service"

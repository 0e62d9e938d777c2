"""Background processes of one CHATPIPE_HOME: start, find and end them with their children.

A process is ours if its environment says so (`CHATPIPE_SERVICE` names the home), or if
`<home>/service/MACHINE/` has its number with the moment it was started.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from chatpipe.server.environment import service_environment
from chatpipe.store.paths import home

ENDS_WITHIN_S = 30
MARKER = "CHATPIPE_SERVICE"


@dataclass(frozen=True)
class Service:
    """A background process: its name, its command and the variables that are added to ours."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        """The file of its output."""
        return service_directory() / f"{self.name}.log"

    @property
    def _record(self) -> Path:
        return service_directory() / f"{self.name}.json"

    def process(self) -> psutil.Process | None:
        """The running process that was started under this name."""
        try:
            recorded = json.loads(self._record.read_text("utf-8"))
            process = psutil.Process(recorded["pid"])
            # Or by the marker: setting the clock changes the start times of processes.
            same = abs(process.create_time() - recorded["started"]) < 1 or _is_marked(process)
            running = same and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None
        return process if running else None

    def start(self) -> bool:
        """Start it, unless it runs already; return whether it was started."""
        if self.process():
            return False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", *self.command],
                env={**service_environment(), **self.environment, MARKER: _marker()},
                cwd=self.log.parent,  # Prefect imports flows from the current directory first
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it outlives this terminal
            )
        started = psutil.Process(child.pid).create_time()
        self._record.write_text(json.dumps({"pid": child.pid, "started": started}), "utf-8")
        return True

    def stop(self) -> int | None:
        """End it and its children; return how many runs ended with it, None if it did not run."""
        process = self.process()
        runs = None
        if process:
            processes = [process, *_children(process)]
            runs = run_count(processes)
            end(processes)
        self._record.unlink(missing_ok=True)
        return runs


def recorded_services() -> list[Service]:
    """Return the services that were started and not stopped, workers before the server."""
    names = sorted((path.stem for path in service_directory().glob("*.json")), reverse=True)
    return [Service(name, (), {}) for name in names]


def orphaned_processes() -> list[psutil.Process]:
    """Return processes of this home whose service has ended: runs of a killed worker."""
    services = [process for service in recorded_services() if (process := service.process())]
    service_pids = {process.pid for process in services}
    service_pids.update(child.pid for process in services for child in _children(process))
    service_pids.update((os.getpid(), *(parent.pid for parent in psutil.Process().parents())))
    return [process for process in _marked_processes() if process.pid not in service_pids]


def home_of_server(port: int) -> str | None:
    """Return the home whose server listens at that port; None if there is none."""
    for process in psutil.process_iter():
        command = _command(process)
        is_server = "uvicorn" in command or "server" in command
        if is_server and ("--port", str(port)) in pairwise(command):
            with suppress(psutil.Error):
                return process.environ().get(MARKER)
    return None


def run_count(processes: Sequence[psutil.Process]) -> int:
    """Return how many of the processes are flow runs."""
    return sum("prefect.engine" in _command(process) for process in processes)


def end(processes: Sequence[psutil.Process]) -> None:
    """Terminate the processes; kill those that do not end in time."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=ENDS_WITHIN_S)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def service_directory() -> Path:
    """Return the directory of this machine's records and logs; machines may share a home."""
    return home() / "service" / platform.node()


def _marker() -> str:
    return str(home().resolve())


def _is_marked(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARKER) == _marker()
    except psutil.Error:
        return False


def _marked_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if _is_marked(process):
            yield process


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

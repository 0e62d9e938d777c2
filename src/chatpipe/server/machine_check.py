"""What a worker does once a start: `chatpipe doctor` for its machine, shown in the dashboard.

It runs in a process of its own beside the worker, which is online meanwhile. On a GPU, runs that
the worker takes wait for its end: a kernel that is switched off is so in the first training;
without one, kernels are not compared, and no run waits.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise

from chatpipe.runtime import parent_death
from chatpipe.server.local import gpus

LOG = logging.getLogger(__name__)
RUNS_WAIT_AT_MOST_S = 300.0
POLL_S = 0.2
MODULE = "chatpipe.server.machine_page"


class MachineCheck:
    """The check as its worker has it. That it fails is logged, and ends neither worker nor run."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, which ends with this one."""
        try:
            self._process = subprocess.Popen(
                parent_death.command(MODULE, self._worker), stdin=subprocess.DEVNULL
            )
        except OSError as error:
            LOG.warning("this machine is not checked: %s", error)

    async def wait(self, at_most_s: float = RUNS_WAIT_AT_MOST_S) -> None:
        """On a GPU, return when the check has ended; end it if it takes longer than that."""
        process = self._process
        if process is None or not await asyncio.to_thread(gpus):
            return
        deadline = time.monotonic() + at_most_s
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
            await asyncio.sleep(POLL_S)
        if process.returncode and self._process is not None:
            LOG.warning(
                "the check of this machine ended with exit code %d, and runs start without it; "
                "`chatpipe doctor --check` says why.",
                process.returncode,
            )
        self._process = None


def worker_name(arguments: Sequence[str]) -> str | None:
    """Return the name that `prefect worker start` gets, or its pool's; None of another command."""
    if list(arguments[:2]) != ["worker", "start"] or "--help" in arguments:
        return None
    options = [part for argument in arguments for part in argument.split("=", 1)]
    for names in (("--name", "-n"), ("--pool", "-p")):
        for option, value in pairwise(options):
            if option in names:
                return value
    return "worker"

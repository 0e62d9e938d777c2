"""A process worker of Prefect whose runs end with it, which writes no environment to a file, and
checks its machine when it is started.

With Prefect's own worker, a run survives a killed worker, and the run's whole environment, tokens
included, stays in a file of a temporary directory.
"""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from typing import Any, ClassVar

from prefect.utilities.processutils import command_to_string
from prefect.workers.process import (
    ProcessJobConfiguration,
    ProcessWorker,
    ProcessWorkerResult,
)

from chatpipe.runtime.variables import variable_faults
from chatpipe.server.environment import bypass_proxies, make_paths_absolute
from chatpipe.server.machine_check import MachineCheck, worker_name
from chatpipe.server.processes import service_directory
from chatpipe.utils.import_path import leave_current_directory

warnings.filterwarnings("ignore", message="Type 'WatchedRunWorker'")


class WatchedRunConfiguration(ProcessJobConfiguration):
    """A run that ends when this process ends."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        """Set the run's command, unless the pool, the deployment or the run has one."""
        if self.command is None:
            arguments = [
                "-P",
                "-m",
                "chatpipe.runtime.parent_watch",
                str(os.getpid()),
                "prefect.engine",
            ]
            self.command = command_to_string([sys.executable, *arguments])
        super().prepare_for_flow_run(*args, **kwargs)


class WatchedRunWorker(ProcessWorker):
    """The worker of type `process` that `prefect worker start` finds in this process."""

    type = "process"
    job_configuration = WatchedRunConfiguration
    check: ClassVar[MachineCheck | None] = None

    async def run(self, *args: Any, **kwargs: Any) -> ProcessWorkerResult:
        """Run a flow; on a GPU, when that is checked."""
        if self.check is not None:
            await self.check.wait()
        return await super().run(*args, **kwargs)


def prepare() -> None:
    """Prepare the environment of the runs, and leave the current directory.

    Prefect imports flows from there first, and another project may have `tasks` and `flows`.
    """
    if not os.environ.get("CHATPIPE_HOME"):
        sys.exit("CHATPIPE_HOME: set it in the worker's environment to the directory of the store.")
    if faults := variable_faults():
        sys.exit("\n".join(faults))
    leave_current_directory()
    bypass_proxies()
    make_paths_absolute()
    service_directory().mkdir(parents=True, exist_ok=True)
    os.chdir(service_directory())


if __name__ == "__main__":
    prepare()
    name = worker_name(sys.argv[1:])
    if name is not None:
        WatchedRunWorker.check = MachineCheck(name)
        WatchedRunWorker.check.start()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)

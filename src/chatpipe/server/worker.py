"""Prefect's process worker, whose runs end with it and whose environment is written to no file.

Prefect itself lets a run outlive a killed worker, and writes the run's whole environment, tokens
included, into a file of a temporary directory that a killed worker leaves behind.
"""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from typing import Any

from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from chatpipe.runtime.variables import variable_faults
from chatpipe.server.environment import bypass_proxies, make_places_absolute
from chatpipe.server.processes import service_directory
from chatpipe.utils.import_path import leave_current_directory

warnings.filterwarnings("ignore", message="Type 'WatchedRunWorker'")


class WatchedRunConfiguration(ProcessJobConfiguration):
    """A run as a child of this process that watches for its end."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        """Set the command, unless the pool, the deployment or the run has one."""
        if self.command is None:
            watched = [
                "-P",
                "-m",
                "chatpipe.runtime.parent_watch",
                str(os.getpid()),
                "prefect.engine",
            ]
            self.command = command_to_string([sys.executable, *watched])
        super().prepare_for_flow_run(*args, **kwargs)


class WatchedRunWorker(ProcessWorker):
    """The worker of type `process` that `prefect worker start` finds in this process."""

    type = "process"
    job_configuration = WatchedRunConfiguration


def prepare() -> None:
    """Settle the environment of the runs, and leave the current directory: Prefect imports flows
    from there first, and another project may have `tasks` and `flows`."""
    if not os.environ.get("CHATPIPE_HOME"):
        sys.exit("CHATPIPE_HOME: a worker's environment must say where the store is.")
    if faults := variable_faults():
        sys.exit("\n".join(faults))
    leave_current_directory()
    bypass_proxies()
    make_places_absolute()
    service_directory().mkdir(parents=True, exist_ok=True)
    os.chdir(service_directory())


if __name__ == "__main__":
    prepare()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)

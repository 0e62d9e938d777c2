"""The server that Prefect starts for one command alone, out of the terminal's reach.

Ctrl-C goes to all that a terminal runs. It is meant for the command, which then tells its server
how the run ended: with the server gone at the same moment, Prefect goes on trying for minutes.
"""

from __future__ import annotations

import subprocess
from functools import partial
from types import SimpleNamespace
from typing import Any


def keep_from_terminal() -> None:
    """Have Prefect start such a server in a process group of its own; the command ends it, unless
    the command itself is killed."""
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return  # none will be started, and importing it takes over a second
    from prefect.server.api import server

    apart = {**vars(subprocess), "Popen": partial(subprocess.Popen, process_group=0)}
    module: Any = server
    module.subprocess = SimpleNamespace(**apart)

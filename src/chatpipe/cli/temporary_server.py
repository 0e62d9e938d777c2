"""The temporary server that Prefect starts for one command; it ends with the command.

A terminal sends Ctrl-C to all processes of a command. If the server ended at once, Prefect could
not report the end of the run to it, and would retry for minutes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from chatpipe.server.database_check import check_database
from chatpipe.server.prefect_disk import check_room


def prepare_temporary_server() -> None:
    """Make Prefect start its server in its own process group, watching this process.

    The server ends with this process, even by SIGKILL. ServiceError where its database cannot be
    used.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return  # none will be started, and importing it takes over a second
    check_room()
    check_database()
    from prefect.server.api import server

    module: Any = server
    module.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _start})


def _start(args: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start `python -m uvicorn …` so that it watches this process."""
    python, _, *module = args
    watched = [python, "-P", "-m", "chatpipe.runtime.parent_watch", str(os.getpid()), *module]
    return subprocess.Popen(watched, process_group=0, **options)

"""The server that Prefect starts for one command alone, out of the terminal's reach.

Ctrl-C goes to all that a terminal runs. It is meant for the command, which then tells its server
how the run ended: with the server gone at the same moment, Prefect goes on trying for minutes.
"""

from __future__ import annotations

import subprocess
from functools import partial
from typing import Any


def keep_from_terminal() -> None:
    """Have Prefect start such a server in a process group of its own; it is ended with the command,
    as before."""
    from prefect.server.api.server import SubprocessASGIServer

    start: Any = getattr(SubprocessASGIServer, "_run_uvicorn_command", None)
    if start is None or hasattr(start, "apart"):
        return

    def start_apart(self: SubprocessASGIServer) -> subprocess.Popen[Any]:
        popen: Any = subprocess.Popen
        subprocess.Popen = partial(popen, process_group=0)  # type: ignore[misc, assignment]
        try:
            return start(self)  # type: ignore[no-any-return]
        finally:
            subprocess.Popen = popen  # type: ignore[misc]

    start_apart.apart = True  # type: ignore[attr-defined]
    SubprocessASGIServer._run_uvicorn_command = start_apart  # type: ignore[method-assign]

"""The command line in a test: as a process of its own, or in this one."""

from __future__ import annotations

import os
import subprocess
import sys

from click.testing import Result


def chatpipe(
    *arguments: object, answers: str | None = None, **environment: object
) -> subprocess.CompletedProcess[str]:
    """The command to its end, with that input and environment beside this process's own."""
    return subprocess.run(
        [sys.executable, "-m", "chatpipe", *map(str, arguments)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        input=answers,
        capture_output=True,
        text=True,
        errors="replace",
    )


def invoke(*arguments: object, answers: str | None = None) -> Result:
    """The command in this process, on its store: torch and Prefect are imported once for all."""
    from typer.testing import CliRunner

    from chatpipe.cli.app import app
    from tasks.caching import BUILT

    BUILT.clear()
    return CliRunner().invoke(app, list(map(str, arguments)), input=answers)

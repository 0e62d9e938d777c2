"""From where modules are imported: not from the directory that a command is started in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

OWN_ROOTS = tuple(Path(__file__).resolve().parents[2:4])  # site-packages, or src and its checkout


def leave_current_directory() -> None:
    """Take the current directory, unless it is this program's own, off `sys.path` and $PYTHONPATH.

    An empty part of $PYTHONPATH puts it before ours, and another project may have `tasks` and
    `flows`, too.
    """
    try:
        current = Path.cwd()
    except OSError:  # it was removed
        return
    if current in OWN_ROOTS:
        return
    sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != current]
    if os.environ.get("PYTHONPATH"):
        entries = [Path(entry).absolute() for entry in os.environ["PYTHONPATH"].split(os.pathsep)]
        others = [str(entry) for entry in entries if entry != current]
        os.environ["PYTHONPATH"] = os.pathsep.join(others)

"""Processes that end with the one that started them, even where that is killed.

`python -m chatpipe.runtime.parent_death PARENT_PID MODULE [ARGUMENT...]` runs a module
so. What protects it is set up before the module's imports, which take long enough for a parent
to die.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module as a process which ends with this one."""
    return [sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]


def end_with_parent(parent_pid: int) -> None:
    """Have Linux kill this process when its parent dies; leave at once where it is dead already.

    By SIGKILL, because with the parent its lock is gone: nothing may be written any more.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

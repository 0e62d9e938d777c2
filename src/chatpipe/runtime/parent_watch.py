"""Processes that end when the one that started them is gone, however that ended.

`python -m chatpipe.runtime.parent_watch PID MODULE ARGUMENT...` runs a Python module so.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

THREAD_NAME = "parent-watch"
POLL_S = 0.5
GRACE_S = 60  # a run saves a checkpoint of its training and tells the server


def end_with_parent(parent_pid: int) -> None:
    """Send SIGTERM to this process once `parent_pid` is no longer its parent, SIGKILL if that is
    not enough.

    A thread polls: the kernel's own signal at a parent's death comes when the *thread* that
    started the process ends.
    """
    if any(thread.name == THREAD_NAME for thread in threading.enumerate()):
        return
    threading.Thread(target=_watch, args=(parent_pid,), name=THREAD_NAME, daemon=True).start()


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module that the command line names."""
    parent_pid, module, *arguments = sys.argv[1:]
    if os.getppid() != int(parent_pid):
        sys.exit(f"{module}: the process that started it, {parent_pid}, is gone.")
    end_with_parent(int(parent_pid))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

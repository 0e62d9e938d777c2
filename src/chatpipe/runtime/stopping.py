"""Signals that ask a training to end: it finishes its step and saves a checkpoint first.

In one process they are kept until a step ends. Where several train together, the process that
started them creates a file, which they look for after each step.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chatpipe.runtime.progress import PREFIX

STOP_FILE = "CHATPIPE_STOP_FILE"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
INTERRUPTED = 128 + signal.SIGINT


class StopRequest:
    """Whether this process has a signal or a file that asks it to end."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        file = os.environ.get(STOP_FILE)
        self._file = Path(file) if file else None

    def __bool__(self) -> bool:
        return bool(self.signals) or (self._file is not None and self._file.exists())


@contextmanager
def deferred_signals(on_signal: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Keep signals that would end a step's process until the step looks at them.

    `on_signal` runs at every one of them: a signal may come in the middle of another's handler.
    A second Ctrl-C ends the process at once. A process that is not a step's own, and a thread that
    is not the main one, keep their handlers.
    """
    request = StopRequest()

    def keep(number: int, _: object) -> None:
        if number == signal.SIGINT and number in request.signals:
            os._exit(INTERRUPTED)
        request.signals.append(number)
        on_signal()
        # Each time: an interrupt that comes to the parent as well can make it lose what it reads.
        _notify_parent()

    is_main = threading.current_thread() is threading.main_thread()
    handlers = {}
    if os.environ.get("CHATPIPE_CHILD") and STOP_FILE not in os.environ and is_main:
        for number in ENDING_SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # ignored: as nohup has it
                handlers[number] = handler
                signal.signal(number, keep)
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _notify_parent() -> None:
    """Write an event in one system call, since the signal may interrupt a print."""
    os.write(1, f"\n{PREFIX}{json.dumps({'stopping': True})}\n".encode())

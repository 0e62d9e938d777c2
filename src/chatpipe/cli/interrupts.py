"""What Ctrl-C does to a command that runs a flow."""

from __future__ import annotations

import signal
from typing import NoReturn


def end_at_second_interrupt() -> None:
    """Have the first Ctrl-C interrupt this process, and the second end it, whatever it waits for.

    The second is left to the kernel: Prefect tells its server how the run ended, ends it and waits
    for threads, and an exception in the midst of that can make it wait for ever. The processes
    that this one has started end with it.
    """

    def interrupt(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: nohup
        signal.signal(signal.SIGINT, interrupt)

"""Ctrl-C in a command that runs a flow."""

from __future__ import annotations

import signal
from typing import NoReturn


def end_at_second_interrupt() -> None:
    """Let the first Ctrl-C interrupt this process and the second kill it.

    After the first, Prefect reports the end of the run to its server, ends it and waits for
    threads; an exception during that can make it wait forever. So the second has the signal's
    default action. The processes that this one has started end with it.
    """

    def interrupt(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: nohup
        signal.signal(signal.SIGINT, interrupt)

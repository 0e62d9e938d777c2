"""Environment variables of chatpipe whose values are checked at start."""

from __future__ import annotations

import difflib
import os

from chatpipe.kernels.switch import kernel_faults

MISTYPED_RATIO = 0.9  # of letters that are the same, as difflib counts them
VARIABLES = {
    "CHATPIPE_" + name
    for name in (
        *("HOME", "DEPLOYMENTS", "SHARED_STORE", "PROCESSES", "SHARDING", "KERNELS"),
        *("API_KEY", "JUDGE_KEY"),
        *("CHILD", "STOP_FILE", "SERVICE"),  # set by chatpipe itself
    )
}


def variable_faults() -> list[str]:
    """A sentence for each CHATPIPE_* variable that has a value it cannot have, or nearly the name
    of one."""
    faults = []
    for name in sorted(os.environ.keys() - VARIABLES):
        if name.startswith("CHATPIPE_") and (
            close := difflib.get_close_matches(name, VARIABLES, 1, MISTYPED_RATIO)
        ):
            faults.append(f"{name}: chatpipe has no such variable; did you mean {close[0]}?")
    faults += kernel_faults()
    if os.environ.get("CHATPIPE_PROCESSES") or os.environ.get("CHATPIPE_SHARDING"):
        from chatpipe.runtime import processes  # which takes long

        faults += processes.variable_faults()
    return faults

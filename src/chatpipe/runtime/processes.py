"""How many processes compute a step together, and whether they share a base."""

from __future__ import annotations

import os

from chatpipe.errors import ConfigError

PROCESSES = "CHATPIPE_PROCESSES"
SHARDING = "CHATPIPE_SHARDING"


def processes() -> int:
    """How many processes train, score or answer together: as many as $CHATPIPE_PROCESSES says, else
    one for each visible GPU."""
    import torch

    if is_one_of_several():
        return int(os.environ.get("WORLD_SIZE", "1"))
    if faults := variable_faults():
        raise ConfigError(faults)
    requested = os.environ.get(PROCESSES, "")
    gpus = torch.cuda.device_count()
    if requested and int(requested) > gpus > 0:
        raise ConfigError(
            [f"{PROCESSES}={requested}: each needs a GPU of its own, {gpus} are visible."]
        )
    return int(requested) if requested else max(1, gpus)


def is_one_of_several() -> bool:
    """Whether this is one of the processes that train together."""
    return "LOCAL_RANK" in os.environ


def thread_variables(count: int) -> dict[str, str]:
    """Return the environment of each of `count` processes: on CPUs they share the cores."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}


def sharding() -> str:
    """What $CHATPIPE_SHARDING says of a 4-bit base: several processes that train each hold a share
    of it, and one that scores or answers on a GPU streams it from main memory, "always", "never",
    or ("auto") where no single GPU holds all of it."""
    if faults := variable_faults():
        raise ConfigError(faults)
    return os.environ.get(SHARDING, "") or "auto"


def variable_faults() -> list[str]:
    """A sentence for each of the two variables whose value none can have; without torch."""
    count, how = os.environ.get(PROCESSES, ""), os.environ.get(SHARDING, "")
    faults = []
    if count and not (count.isascii() and count.isdecimal() and count.strip("0")):
        faults.append(f"{PROCESSES}={count}: must be a whole number above 0.")
    if how not in {"", "auto", "always", "never"}:
        faults.append(f"{SHARDING}={how}: must be auto, always or never.")
    return faults

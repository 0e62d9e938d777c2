"""What other libraries are told before they are imported; a user's own setting wins."""

from __future__ import annotations

import logging
import os
import warnings

ENVIRONMENT = {
    # No noise, no telemetry.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # How often the threads of a product look for each other before they sleep. By itself GNU OpenMP
    # has them look for milliseconds, which is long where other processes wait for the cores.
    "GOMP_SPINCOUNT": "20000",
    # Sizes change from pack to pack and with every token of an answer: on a GPU blocks must be able
    # to grow, or free memory is of no use in pieces.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
# Where a user may have said the same by another name.
OTHERWISE = {
    "GOMP_SPINCOUNT": "OMP_WAIT_POLICY",
    "PYTORCH_ALLOC_CONF": "PYTORCH_CUDA_ALLOC_CONF",
}


def prepare() -> None:
    """Set the environment, and leave out what libraries say at import, warn of or draw as bars;
    their errors stay."""
    os.environ.update(environment())
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def environment() -> dict[str, str]:
    """Of ENVIRONMENT, what the user has not said."""
    return {
        name: value
        for name, value in ENVIRONMENT.items()
        if not {name, OTHERWISE.get(name, name)} & os.environ.keys()
    }

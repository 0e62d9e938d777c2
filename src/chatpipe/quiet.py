"""Other libraries' noise and telemetry, off by default; a user's own setting wins."""

from __future__ import annotations

import logging
import os
import warnings

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def quieten() -> None:
    """Leave out what libraries say at import, warn of or draw as bars; their errors stay.

    Call it before they are imported.
    """
    os.environ.update({**ENVIRONMENT, **os.environ})
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

"""Where chatpipe keeps what is its own."""

from __future__ import annotations

import os
from pathlib import Path

WORK = ".work"  # the store's folder for checkpoints of unfinished steps


def home() -> Path:
    """chatpipe's own directory: $CHATPIPE_HOME, or ./.chatpipe."""
    return Path(os.environ.get("CHATPIPE_HOME") or ".chatpipe").absolute()


def store_directory() -> Path:
    """Where the artifacts of this process lie, as `KIND/KEY/`."""
    return home() / "store"

"""The directories of chatpipe's own files."""

from __future__ import annotations

import os
from pathlib import Path

WORK = ".work"  # the store's folder for checkpoints of unfinished steps


def home() -> Path:
    """Return chatpipe's own directory: $CHATPIPE_HOME, or ./.chatpipe."""
    return Path(os.environ.get("CHATPIPE_HOME") or ".chatpipe").absolute()


def store_directory() -> Path:
    """Return the directory of this process's artifacts, which lie in it as `KIND/KEY/`."""
    return home() / "store"

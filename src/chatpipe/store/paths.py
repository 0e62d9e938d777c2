"""The directories of chatpipe's own files."""

from __future__ import annotations

from pathlib import Path

from chatpipe.utils.home import home as home

WORK = ".work"  # the store's folder for checkpoints of unfinished steps


def store_directory() -> Path:
    """Return the directory of this process's artifacts, which lie in it as `KIND/KEY/`."""
    return home() / "store"

"""chatpipe's own directory."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return chatpipe's own directory: $CHATPIPE_HOME, or ./.chatpipe."""
    return Path(os.environ.get("CHATPIPE_HOME") or ".chatpipe").absolute()

"""Text without the secrets of this process: tokens, passwords, accounts in addresses."""

from __future__ import annotations

import os
import re
from pathlib import Path

HIDDEN = "***"
_SECRET_NAMES = re.compile(
    r"TOKEN|SECRET|PASSW|API_?KEY|ACCESS_?KEY|AUTH|CREDENTIAL", re.IGNORECASE
)
_SHORTEST_SECRET = 6  # shorter values are switches, and parts of words
_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"),  # the account in an address
    re.compile(r"\bhf_[A-Za-z0-9]{8,}"),
    re.compile(r"(?i)(?<=bearer )\S+|(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(r"(?i)(?<=[?&])[\w-]*(?:token|signature|credential|sig|key)=[^&\s'\"]+"),
)


def redact(text: str) -> str:
    """The text, with *** where it has a secret."""
    for name, value in os.environ.items():
        is_path = value.startswith("/") and Path(value).exists()
        if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST_SECRET and not is_path:
            text = text.replace(value, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    return text

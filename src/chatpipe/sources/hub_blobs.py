"""Files of the hub's cache, held against the digests that they are named by."""

from __future__ import annotations

import re
from pathlib import Path

from chatpipe.errors import SourceError
from chatpipe.store.store import store
from chatpipe.utils.file_digests import sha1_digests


def check_blob(blob: Path, repo: str) -> None:
    """Raise SourceError if a file of the hub's cache has another content than its name says.

    The hub names a large file by its SHA-256 and a small one as git does; some mirrors take plain
    SHA-1.
    """
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        digests = {store().digests.sha256(blob)}
    elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
        digests = sha1_digests(blob)
    else:
        return
    if blob.name not in digests:
        raise SourceError(
            f"{repo}: {blob} is damaged; remove that file and run the same command again, which "
            "fetches it anew."
        )

"""A directory with the layout of a hub repository, most of it without content."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chatpipe.sources.hub import Snapshot
from chatpipe.sources.loaded_splits import DESCRIPTIONS


@contextmanager
def skeleton(snapshot: Snapshot, names: Sequence[str], needed: Sequence[str]) -> Iterator[Path]:
    """Yield a directory with these files: the descriptions and those needed are links into the
    hub's cache, all others are empty."""
    present = {*DESCRIPTIONS, *needed}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / snapshot.repo.rpartition("/")[2]
        folder.mkdir()
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name in present:
                target.symlink_to((snapshot.path / name).resolve())
            else:
                target.touch()
        yield folder

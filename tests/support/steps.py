"""Steps of a flow without a process for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatpipe.runtime import oom
from chatpipe.runtime.worker import SharedWorker
from chatpipe.store.artifact import Request


@contextmanager
def built_here() -> Iterator[None]:
    """Model steps are built here: a process that imports torch costs seconds, a tiny model none.

    That they are built in processes of their own, and what comes of it, is tested in
    `runtime/test_worker.py`, `flows/test_flows.py`, the drills and the tests of commands.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedWorker, "build", _build)
        yield


def _build(
    self: SharedWorker, request: Request, into: Path, on_progress: object, on_line: object
) -> dict[str, Any]:
    with oom.name_memory_errors(request):
        return request.build(into)

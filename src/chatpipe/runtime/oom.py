"""A GPU's memory: what is said where it does not suffice, and what is given back then."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from chatpipe.errors import GPUMemoryError
from chatpipe.store.artifact import Request


@contextmanager
def name_memory_errors(request: Request) -> Iterator[None]:
    """GPUMemoryError for torch's own, with the settings that spare memory in this request."""
    try:
        yield
    except Exception as error:
        if not _is_of_memory(error):
            raise
        reason = ". ".join(str(error).split(". ")[:3]).rstrip(".")
        mend = request.oom_hint or "use a GPU with more"
        raise GPUMemoryError(f"the {request.kind} step: {reason}; {mend}.") from None


def release_memory() -> None:
    """Free what a failed attempt has left; where torch was never loaded, there is none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _is_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)

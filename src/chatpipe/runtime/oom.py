"""Errors of exhausted GPU memory, and the release of memory after one."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from chatpipe.errors import GPUMemoryError
from chatpipe.store.artifact import Request


@contextmanager
def name_memory_errors(request: Request) -> Iterator[None]:
    """Raise GPUMemoryError for torch's, naming the settings that need less memory."""
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        reason = ". ".join(str(error).split(". ")[:3]).rstrip(".")
        remedy = request.oom_hint or "use a GPU with more"
        raise GPUMemoryError(f"the {request.kind} step: {reason}; {remedy}.") from None


def release_memory() -> None:
    """Free the GPU memory of a failed attempt; nothing if torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)

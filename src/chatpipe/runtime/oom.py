"""Errors of exhausted GPU memory, and the release of memory after one."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from chatpipe.errors import GPUMemoryError
from chatpipe.store.artifact import Request

# Of cuBLAS's handles, cuDNN's, and all that is no tensor.
OTHER_TEXTS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


@contextmanager
def name_memory_errors(request: Request) -> Iterator[None]:
    """Raise GPUMemoryError for torch's, naming the settings that need less memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
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


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU's memory has ended: for torch's allocator, or for what CUDA and its libraries
    take beside it, whose errors are told apart by their text alone."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OTHER_TEXTS)

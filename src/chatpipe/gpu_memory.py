"""A GPU's memory: how torch hands it out, and what is said where it does not suffice."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from chatpipe.artifacts import Request
from chatpipe.errors import GPUMemoryError


def allocator() -> dict[str, str]:
    """The environment of a process that computes: sizes change from pack to pack and with every
    token of an answer, so blocks must be able to grow, or free memory is of no use in pieces. What
    the user says of the allocator stands."""
    told = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()
    return {} if told else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


@contextmanager
def errors_named(request: Request) -> Iterator[None]:
    """GPUMemoryError for torch's own, with the settings that spare memory in this request."""
    try:
        yield
    except Exception as error:
        if not _is_of_memory(error):
            raise
        reason = ". ".join(str(error).split(". ")[:3]).rstrip(".")
        mend = request.spares_memory or "use a GPU with more"
        raise GPUMemoryError(f"the {request.kind} step: {reason}; {mend}.") from None


def give_back() -> None:
    """Free what a failed attempt has left; where torch was never loaded, there is none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _is_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)

"""Norms, rotary positions and gated units in fewer passes over the hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from chatpipe.kernels.compiled import compiled_layers
from chatpipe.kernels.liger import liger_layers


@contextmanager
def fused_layers(model: torch.nn.Module) -> Iterator[None]:
    """While this lasts, they are computed by Liger on a GPU, where it knows them, and the others by
    compiled code, where that is asked for."""
    with liger_layers(model), compiled_layers(model):
        yield

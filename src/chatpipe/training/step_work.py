"""What an optimizer step computes, and where its gradients go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from chatpipe.packing.batching import Batch

Gradients = Sequence[torch.Tensor | None]


class StepWork(NamedTuple):
    """An optimizer step that is computed together with those of other trainings.

    batches: the step's rows. weight: what the sum of their nats is multiplied by. seeds: of each
    batch's dropout, where batches are computed in threads; empty where it is drawn batch after
    batch. trained: the adapter's weights.
    """

    batches: Sequence[Batch]
    weight: torch.Tensor
    seeds: Sequence[int]
    trained: Sequence[torch.Tensor]


def add_gradients(trained: Sequence[torch.Tensor], gradients: Gradients) -> None:
    """Add to the gradient of each weight."""
    for parameter, gradient in zip(trained, gradients, strict=True):
        if parameter.grad is None:
            # torch's fused optimizers read it as the parameter lies in memory.
            parameter.grad = gradient if gradient is None else gradient.contiguous()
        elif gradient is not None:
            parameter.grad += gradient

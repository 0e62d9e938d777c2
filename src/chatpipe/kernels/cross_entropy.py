"""Cross-entropy of a large vocabulary: a few tokens in float32 at once, and no second copy.

torch's own keeps log-probabilities in float32 for the backward pass, and makes two gradients of
that size from them: 12 bytes for every logit. Here the gradient is computed along with the loss,
in the logits' own type and place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from chatpipe.kernels.switch import is_enabled, ran

# Probabilities in float32 at once: on a CPU those of so many tokens, which stay in its cache; on a
# GPU so many numbers (256 MiB), because every part costs it a dozen kernels, however small.
CPU_TOKENS = 128
GPU_NUMBERS = 1 << 26


def tokens_at_once(vocabulary: int, device: str) -> int:
    """Return how many tokens' probabilities are in float32 at once; device: cpu or cuda."""
    return max(1, GPU_NUMBERS // vocabulary) if device == "cuda" else CPU_TOKENS


def token_nats(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(S,) −log p of each target, in float32, from logits (S, vocabulary) of any float type.

    Where a gradient is needed the logits are overwritten: they cannot be read afterwards.
    """
    if not is_enabled("cross_entropy"):
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    ran("cross_entropy")
    if logits.requires_grad:
        return _TokenNats.apply(logits, targets)  # type: ignore[no-any-return, no-untyped-call]
    nats = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for part, part_targets, part_nats in _parts(logits, targets, nats):
        _exponentials(part, part_targets, part_nats)
    return nats


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _parts(logits: torch.Tensor, *others: torch.Tensor) -> Iterator[Part]:
    """The same few tokens of each."""
    at_once = tokens_at_once(logits.shape[-1], logits.device.type)
    return zip(*(torch.split(tensor, at_once) for tensor in (logits, *others)), strict=True)


def _exponentials(
    logits: torch.Tensor, targets: torch.Tensor, nats: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """exp(logits − their maximum) and its sum over the vocabulary, in float32: probabilities are
    the one over the other. −log p of the targets is written into `nats`."""
    exact = logits.to(torch.float32, copy=True)
    exact -= exact.amax(-1, keepdim=True)
    target_logits = exact.gather(1, targets[:, None])
    total = exact.exp_().sum(-1, keepdim=True)
    torch.sub(total.log()[:, 0], target_logits[:, 0], out=nats)
    return exact, total


class _TokenNats(torch.autograd.Function):
    """∂ nats / ∂ logits = softmax(logits) − 1 at the target, times the gradient of the token's
    own nats: everything but that factor is known in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nats = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        content = logits.detach()
        for part, part_targets, part_nats in _parts(content, targets, nats):
            exponentials, total = _exponentials(part, part_targets, part_nats)
            gradient = exponentials.div_(total)
            gradient.scatter_add_(
                1, part_targets[:, None], gradient.new_full((len(part_targets), 1), -1.0)
            )
            part.copy_(gradient)
        ctx.save_for_backward(content)
        return nats

    @staticmethod
    def backward(ctx: Any, *of_nats: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(of_nats[0].to(gradient.dtype)[:, None]), None

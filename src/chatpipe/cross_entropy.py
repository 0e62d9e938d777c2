"""Cross-entropy of a large vocabulary: a few tokens in float32 at once, and no second copy.

torch's own keeps log-probabilities in float32 for the backward pass, and makes two gradients of
that size from them: 12 bytes for every logit. Here the gradient is computed along with the loss,
in the logits' own type and place.
"""

from __future__ import annotations

from typing import Any

import torch

AT_ONCE = 256  # tokens whose probabilities are in float32 at once


def token_nats(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(S,) −log p of each target, in float32, from logits (S, vocabulary) of any float type.

    Where a gradient is wanted the logits are overwritten: they cannot be read afterwards.
    """
    if logits.requires_grad:
        return _TokenNats.apply(logits, targets)  # type: ignore[no-any-return, no-untyped-call]
    parts = zip(torch.split(logits, AT_ONCE), torch.split(targets, AT_ONCE), strict=True)
    nats = [_nats_of(some.float(), wanted)[0] for some, wanted in parts]
    return torch.cat(nats) if nats else logits.new_zeros(0, dtype=torch.float32)


def _nats_of(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(nats, log of the sum of exponentials) of each row of float32 logits."""
    total = logits.logsumexp(-1)
    return total - logits.gather(1, targets[:, None])[:, 0], total


class _TokenNats(torch.autograd.Function):
    """∂ nats / ∂ logits = softmax(logits) − 1 at the target, times the gradient of the token's
    own nats: everything but that factor is known in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nats = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        content = logits.detach()
        for start in range(0, len(logits), AT_ONCE):
            some, wanted = content[start : start + AT_ONCE], targets[start : start + AT_ONCE]
            exact = some.float()
            nats[start : start + AT_ONCE], total = _nats_of(exact, wanted)
            gradient = exact.sub_(total[:, None]).exp_()
            gradient.scatter_add_(1, wanted[:, None], -torch.ones_like(total)[:, None])
            some.copy_(gradient)
        ctx.save_for_backward(content)
        return nats

    @staticmethod
    def backward(ctx: Any, *of_nats: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(of_nats[0].to(gradient.dtype)[:, None]), None

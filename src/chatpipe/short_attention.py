"""Attention of short examples in half precision on CPUs, by plain products.

torch's own, which never holds all probabilities at once, is slow where an example is one or two of
its blocks: up to SHORT tokens, products take a half to a third of its time, forward and backward.
Scores and probabilities are in float32, and the probabilities rounded for their product with the
values, as in FlashAttention. The backward pass is that of its paper (Dao et al., 2022, appendix B),
but that the probabilities are kept and not computed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

SHORT = 256  # tokens that an example attends to


def is_short(query: torch.Tensor, span: int) -> bool:
    """Whether an example that attends to so many tokens is faster by products."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half and query.device.type == "cpu" and span <= SHORT


def attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """query (1, heads, L, size), key and value (1, key heads, K, size) → (1, heads, L, size).
    mask: (heads / key heads × L, K) in float32, added to the scores of the query heads that share
    a key head, one under the other."""
    if scale is None:
        scale = query.shape[-1] ** -0.5
    return _Attention.apply(query, key, value, mask, scale)  # type: ignore[no-any-return, no-untyped-call]


class _Attention(torch.autograd.Function):
    """Of G key heads, and R rows of the query heads that share one: scores and probabilities
    (G, R, K)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        queries = query.reshape(key.shape[1], -1, key.shape[3])
        keys, values = key[0], value[0]
        scores = torch.baddbmm(mask, queries.float(), keys.float().transpose(1, 2), alpha=scale)
        probabilities = scores.softmax(-1).to(value.dtype)
        output = probabilities @ values
        ctx.save_for_backward(queries, keys, values, probabilities, output)
        ctx.scale = scale
        return output.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, keys, values, probabilities, output = ctx.saved_tensors
        gradient = gradients[0].reshape(output.shape)
        of_values = probabilities.transpose(1, 2) @ gradient
        # Σ over keys of probability × its gradient.
        weighted = (gradient * output).sum(-1, keepdim=True, dtype=torch.float32)
        of_scores = gradient @ values.transpose(1, 2)
        of_scores.sub_(weighted.to(of_scores.dtype)).mul_(probabilities)
        of_queries = (of_scores @ keys).mul_(ctx.scale)
        of_keys = (of_scores.transpose(1, 2) @ queries).mul_(ctx.scale)
        return of_queries.view(gradients[0].shape), of_keys[None], of_values[None], None, None

"""Attention of short examples in bfloat16 on CPUs, by plain products.

torch's own, which never holds all probabilities at once, is slow where an example is one or two of
its blocks: up to SHORT tokens, products take a half to a third of its time, forward and backward.
Scores and probabilities are in float32, and the probabilities rounded for their product with the
values, as in FlashAttention; they are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

SHORT = 256  # tokens that an example attends to


def is_short(query: torch.Tensor, span: int) -> bool:
    """Whether an example that attends to so many tokens is faster by products."""
    return query.dtype is torch.bfloat16 and query.device.type == "cpu" and span <= SHORT


def attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """query (1, heads, L, size), key (1, key heads, K, size), value (1, key heads, K, value size)
    → (1, heads, L, value size). mask: (L, K) in float32, added to every head's scores."""
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
        masks = mask.repeat(query.shape[1] // key.shape[1], 1)
        scores = torch.baddbmm(masks, queries.float(), keys.float().transpose(1, 2), alpha=scale)
        probabilities = scores.softmax(-1).to(value.dtype)
        ctx.save_for_backward(queries, keys, values, probabilities)
        ctx.scale = scale
        return (probabilities @ values).view(*query.shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, keys, values, probabilities = ctx.saved_tensors
        gradient = gradients[0].reshape(*queries.shape[:2], -1)
        of_values = probabilities.transpose(1, 2) @ gradient
        of_probabilities = (gradient @ values.transpose(1, 2)).float()
        # In float32: what is left of the difference is small where a token dominates.
        weighted = (of_probabilities * probabilities).sum(-1, keepdim=True)
        of_scores = of_probabilities.sub_(weighted).mul_(probabilities).to(keys.dtype)
        of_queries = (of_scores @ keys).mul_(ctx.scale)
        of_keys = (of_scores.transpose(1, 2) @ queries).mul_(ctx.scale)
        of_query = of_queries.view(*gradients[0].shape[:3], -1)
        return of_query, of_keys[None], of_values[None], None, None

"""The next token of every row of a batch, each drawn with settings of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chatpipe.generation.sampling import Sampler, sampled_tokens


@dataclass(frozen=True)
class Likelihood:
    """How likely a token was before temperature and top_p, in nats; top: the most likely tokens
    with theirs, the first one first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def next_tokens(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Return the next token of each row, (rows,); logits: (rows, vocabulary)."""
    of_settings: dict[tuple[float, float], list[int]] = {}
    for row, sampler in enumerate(samplers):
        if not sampler.is_greedy:
            of_settings.setdefault(sampler.settings, []).append(row)
    if len(samplers) in map(len, of_settings.values()):
        return sampled_tokens(logits, samplers)
    tokens = logits.max(-1).indices  # argmax takes nine times as long for many rows on a CPU
    for rows in of_settings.values():
        tokens[rows] = sampled_tokens(logits[rows], [samplers[row] for row in rows])
    return tokens


def likelihood(logits: torch.Tensor, token: int, most: int) -> Likelihood:
    """Return the token's likelihood and those of the `most` likeliest; logits: (vocabulary,)."""
    logprobs = logits.float().log_softmax(-1)
    values, tokens = logprobs.topk(min(most, len(logprobs)))
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Likelihood(float(logprobs[token]), top)

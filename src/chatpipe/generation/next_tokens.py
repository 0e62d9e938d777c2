"""The next token of every row of a batch, each drawn with settings of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chatpipe.config.schema import Generation
from chatpipe.generation.sampling import generation_arguments

LEAST_TEMPERATURE = 1e-5  # logits that are divided by less overflow; greedy is meant


@dataclass(frozen=True)
class Likelihood:
    """How likely a token was before temperature and top_p, in nats; top: the most likely tokens
    with theirs, the first one first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """One row's settings. What it draws equals what `generation.batch` draws for the same prompt
    and settings."""

    def __init__(self, generation: Generation, ids: list[int]) -> None:
        self.is_greedy = generation.temperature < LEAST_TEMPERATURE
        self._processors: Any = (
            None
            if self.is_greedy
            else generation_arguments(generation, [ids], [0])["logits_processor"]
        )

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """logits (1, vocabulary) in float32 → such of which the greatest is the token drawn."""
        return self._processors(None, logits)  # type: ignore[no-any-return]


def next_tokens(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Return the next token of each row; logits: (rows, vocabulary)."""
    tokens = logits.max(
        -1
    ).indices  # those of argmax, for many rows on a CPU in a ninth of its time
    for row, sampler in enumerate(samplers):
        if not sampler.is_greedy:
            # A copy in float32, as `generate` makes it.
            scores = logits[row : row + 1].to(torch.float32, copy=True)
            tokens[row] = sampler.scores(scores)[0].argmax()
    return tokens.tolist()


def likelihood(logits: torch.Tensor, token: int, most: int) -> Likelihood:
    """Return the token's likelihood and those of the `most` likeliest; logits: (vocabulary,)."""
    logprobs = logits.float().log_softmax(-1)
    values, tokens = logprobs.topk(min(most, len(logprobs)))
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Likelihood(float(logprobs[token]), top)

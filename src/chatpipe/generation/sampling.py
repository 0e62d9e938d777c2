"""Sampled text that depends on the seed and the prompt, not on who else is in the batch (but for
near ties that rounding breaks otherwise, in bfloat16 and float16).

A token is drawn from softmax(z) as the greatest of z + g, where every gᵢ is a Gumbel variable of
its own (the Gumbel-max trick). Each prompt has a generator of its own, seeded by its tokens, so
that models which are asked the same differ by what they make of it and not by luck.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from chatpipe.config.schema import Generation

LEAST_TEMPERATURE = 1e-5  # logits that are divided by less overflow; greedy is meant


class Sampler:
    """How one row's tokens are drawn: its settings, and a generator of its own.

    Attributes:
        is_greedy: Whether the likeliest token is taken.
        settings: Temperature and top_p.
    """

    def __init__(self, generation: Generation, ids: Sequence[int], drawn: int = 0) -> None:
        """ids: The prompt's. drawn: How many tokens of the reply were drawn before."""
        self.is_greedy = generation.temperature < LEAST_TEMPERATURE
        self.settings = generation.temperature, generation.top_p
        self._seed = prompt_seed(generation.seed, ids)
        self._drawn = drawn
        self._generator: torch.Generator | None = None

    def draw(self, into: torch.Tensor) -> None:
        """Fill it with exponential variables, those that follow the ones drawn before."""
        if self._generator is None:
            self._generator = torch.Generator(into.device).manual_seed(self._seed)
            for _ in range(self._drawn):
                into.exponential_(generator=self._generator)
        into.exponential_(generator=self._generator)


def sampled_tokens(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Return (rows,), a token drawn for each row; logits: (rows, vocabulary), of rows that have the
    same temperature and top_p."""
    temperature, top_p = samplers[0].settings
    scores: torch.Tensor = logits.to(torch.float32, copy=True)
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    noisy: torch.Tensor = scores + _gumbel(scores, samplers)
    return noisy.argmax(-1)


def prompt_seed(seed: int, ids: Sequence[int]) -> int:
    """Return a prompt's seed: of its tokens' digest and the setting."""
    named = hashlib.sha256(f"{seed} {list(ids)}".encode())
    return int.from_bytes(named.digest()[:7], "big")


def _gumbel(scores: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Return Gumbel variables for all scores, each row's from its own generator."""
    drawn = torch.empty_like(scores)
    for row, sampler in zip(drawn, samplers, strict=True):
        sampler.draw(row)
    return drawn.log_().neg_()  # −log of an exponential variable is a Gumbel one

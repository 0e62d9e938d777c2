"""Sampled text that depends on the seed and the prompt, not on who else is in the batch (but for
near ties that rounding breaks otherwise, in bfloat16 and float16).

A token is drawn from softmax(z) as the greatest of z + g, where every gᵢ is a Gumbel variable of
its own (the Gumbel-max trick). Each prompt has a generator of its own, seeded by its tokens, so
that models which are asked the same differ by what they make of it and not by luck.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from chatpipe.config.schema import Generation


def generation_arguments(
    generation: Generation, prompts: Sequence[Sequence[int]], stops: Sequence[int]
) -> dict[str, Any]:
    """transformers' arguments for those settings and the prompts' tokens, in the batch's order; for
    one call of `generate`, because what it draws goes on where the last one stopped."""
    config = GenerationConfig(
        max_new_tokens=generation.max_new_tokens,
        do_sample=False,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
    )
    processors = LogitsProcessorList()
    if generation.temperature > 0:
        processors.append(TemperatureLogitsWarper(generation.temperature))
        if generation.top_p < 1:
            processors.append(TopPLogitsWarper(generation.top_p))
        processors.append(Noise([_seed(generation.seed, ids) for ids in prompts]))
    return {"generation_config": config, "logits_processor": processors}


class Noise(LogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise to the logits, for each row of the batch from its own seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores (rows, vocabulary) in float32 → such of which the greatest is the token drawn."""
        device = scores.device
        if not self._generators:
            self._generators = [torch.Generator(device).manual_seed(seed) for seed in self.seeds]
        drawn = torch.empty_like(scores)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - drawn.log_()  # −log of an exponential variable is a Gumbel one


def _seed(seed: int, ids: Sequence[int]) -> int:
    """Of a prompt: its tokens' digest and the setting."""
    named = hashlib.sha256(f"{seed} {list(ids)}".encode())
    return int.from_bytes(named.digest()[:7], "big")

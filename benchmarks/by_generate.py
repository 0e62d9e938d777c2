"""Answers by transformers' `generate` alone, one prompt at a time, with peft's own adapters: what
chatpipe's running batch is compared with, in speed here and in its text by the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from chatpipe.config.schema import Generation
from chatpipe.generation.sampling import prompt_seed
from chatpipe.kernels.lora_inference import switched_to


def generated_ids(
    model: Any, ids: list[int], adapter: str | None, stops: Sequence[int], generation: Generation
) -> list[int]:
    """Return the new token ids, up to and with one of the stops."""
    inputs = torch.tensor([ids], device=next(model.parameters()).device)
    arguments = generate_arguments(generation, [ids], stops)
    with torch.no_grad(), switched_to(model, adapter):
        [out] = model.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), **arguments
        )
    return out[len(ids) :].tolist()  # type: ignore[no-any-return]


def generate_arguments(
    generation: Generation, prompts: Sequence[list[int]], stops: Sequence[int]
) -> dict[str, Any]:
    """Return transformers' arguments for those settings and the prompts of a batch, for one call of
    `generate`: what it draws goes on where the last call stopped."""
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
        processors.append(Noise([prompt_seed(generation.seed, ids) for ids in prompts]))
    return {"generation_config": config, "logits_processor": processors}


class Noise(LogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise to the logits, for each row of the batch from its own seed: the greatest is
    then a token drawn."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores (rows, vocabulary) in float32 → with noise."""
        rows = zip(scores, self.generators, strict=True)
        return torch.stack(
            [row - torch.empty_like(row).exponential_(generator=g).log() for row, g in rows]
        )

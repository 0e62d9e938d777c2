"""Prompts completed in batches, by one model or by several adapters of one base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from chatpipe.config.schema import Generation
from chatpipe.runtime.progress import Reporter
from chatpipe.tokenization.encoder import Encoder
from chatpipe.tokenization.text_encoder import PromptText

AT_ONCE = 64  # prompts in a batch, whose caches are in memory together
CACHE_SHARE = 1 / 3  # of the memory that is free


@dataclass(frozen=True)
class Completion:
    """What a model wrote: text, its tokens (EOS included), and why it stopped: eos or length."""

    text: str
    tokens: int
    stop: str


@dataclass(frozen=True)
class Question:
    """A prompt's tokens and the adapter that goes on from them; None: the base alone."""

    ids: list[int]
    adapter: str | None


def complete(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[PromptText],
    generation: Generation,
    adapters: Sequence[str | None] | None = None,
) -> list[Completion]:
    """Complete the prompts, as many at once as there is room for; the same prompt and seed give
    the same text, but for near ties that rounding breaks otherwise. Each passes through its
    adapter, by name, or through the base alone where that is None; all through the one that is
    on, where nothing is said of them."""
    from chatpipe.kernels.lora_inference import active

    through = [active(model)] * len(prompts) if adapters is None else adapters
    questions = list(map(Question, encoder.prompt_ids(prompts), through))
    completions = []
    room = _room_tokens(model)
    for together in _mixable(model, questions):
        for batch in _batches(together, generation.max_new_tokens, room):
            completions += _complete_batch(model, encoder, batch, generation)
    return completions


def _mixable(model: Any, questions: Sequence[Question]) -> list[list[Question]]:
    """Questions in runs that may share batches: every run is of one model where adapters cannot be
    mixed."""
    from chatpipe.kernels.lora_inference import can_mix

    if can_mix(model):
        return [list(questions)]
    of_each = groupby(questions, lambda question: question.adapter)
    return [list(of_one) for _, of_one in of_each]


def _batches(
    questions: Sequence[Question], new_tokens: int, room: float
) -> Iterator[list[Question]]:
    """As many questions as AT_ONCE says and there is room for, in their order."""
    batch: list[Question] = []
    width = 0
    for question in questions:
        width = max(width, len(question.ids) + new_tokens)
        if len(batch) == AT_ONCE or (batch and (len(batch) + 1) * width > room):
            yield batch
            batch, width = [], len(question.ids) + new_tokens
        batch.append(question)
    if batch:
        yield batch


def _room_tokens(model: Any) -> float:
    """Tokens whose keys and values take no more than a share of the memory that is free: a cache is
    copied as it grows."""
    from chatpipe.generation.prefill import prefill
    from chatpipe.models.devices import free_memory_bytes

    of_one = prefill(model, [[0, 0]], [None])  # whose last token is not read
    of_token: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in of_one.layers)
    return CACHE_SHARE * free_memory_bytes() / of_token


def _complete_batch(
    model: Any, encoder: Encoder, questions: Sequence[Question], generation: Generation
) -> list[Completion]:
    """One left-padded batch."""
    import torch

    from chatpipe.generation.prefill import prefill
    from chatpipe.generation.sampling import generation_arguments
    from chatpipe.kernels.lora_inference import row_by_row

    ids = [question.ids for question in questions]
    adapters = [question.adapter for question in questions]
    width = max(map(len, ids))
    device = next(model.parameters()).device
    eos = encoder.tokenizer.eos_token_id
    padded = torch.tensor([[eos] * (width - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    report = Reporter(generation.max_new_tokens, "tokens")

    def tell(so_far: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion that never stops: transformers' hook after every token."""
        report(so_far.shape[1] - width)
        return torch.zeros(so_far.shape[0], dtype=torch.bool, device=so_far.device)

    read = prefill(model, ids, adapters)
    with torch.no_grad(), row_by_row(model, adapters):
        out = model.generate(
            input_ids=padded,
            attention_mask=mask,
            past_key_values=read,
            stopping_criteria=[tell],
            **generation_arguments(generation, ids, eos),
        )
    return [completion_of(row[width:].tolist(), encoder.tokenizer) for row in out]


def completion_of(ids: list[int], tokenizer: Any) -> Completion:
    """Those new tokens up to the EOS, if there is one."""
    eos = tokenizer.eos_token_id
    stopped = eos in ids
    written = ids[: ids.index(eos)] if stopped else ids
    text = tokenizer.decode(written, skip_special_tokens=True).strip()
    return Completion(text, len(written) + stopped, "eos" if stopped else "length")

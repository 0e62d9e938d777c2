"""Prompts completed in batches, by one model or by several adapters of one base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any

from chatpipe.config.schema import Generation
from chatpipe.runtime.progress import Reporter
from chatpipe.tokenization.encoder import AskedPrompt, Encoder

HasEnded = Callable[[list[int]], bool]
AT_ONCE = 64  # prompts in a batch, whose caches are in memory together
CACHE_SHARE = 1 / 3  # of the memory that is free
# What transformers' models call what they keep of the tokens before.
CACHES = ("past_key_values", "cache_params", "state")


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
    index: int  # its place among those that are asked


def complete(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[AskedPrompt],
    generation: Generation,
    adapters: Sequence[str | None] | None = None,
) -> list[Completion]:
    """Complete the prompts, as many at once as there is room for; the same prompt and seed give
    the same text, but for near ties that rounding breaks otherwise. Each passes through its
    adapter, by name, or through the base alone where that is None; all through the one that is
    on, where nothing is said of them."""
    from chatpipe.kernels.lora_inference import active

    through = [active(model)] * len(prompts) if adapters is None else adapters
    questions = list(map(Question, encoder.prompt_ids(prompts), through, count()))
    return complete_ids(model, encoder.tokenizer, encoder.renderer.stops, questions, generation)


def complete_ids(
    model: Any,
    tokenizer: Any,
    stops: Sequence[int],
    questions: Sequence[Question],
    generation: Generation,
) -> list[Completion]:
    """Complete questions that are token ids; stops: the ids at which an answer ends."""
    written = written_ids(model, stops, questions, generation)
    return [completion_of(ids, tokenizer, stops) for ids in written]


def written_ids(
    model: Any,
    stops: Sequence[int],
    questions: Sequence[Question],
    generation: Generation,
    has_ended: HasEnded | None = None,
) -> list[list[int]]:
    """The new token ids of every question. An answer goes on to one of the ids `stops`, or to where
    `has_ended` says so of its new ids; what follows in the list is of no account."""
    written: dict[int, list[int]] = {}
    room = room_tokens(model)
    for together in _runs(model, questions):
        for batch in _batches(together, generation.max_new_tokens, room):
            answers = _complete_batch(model, stops, batch, generation, has_ended)
            written.update(zip((question.index for question in batch), answers, strict=True))
    return [written[question.index] for question in questions]


def mixes_adapters(model: Any) -> bool:
    """Whether prompts of different adapters are in one batch."""
    from chatpipe.kernels.lora_inference import can_mix

    return reads_packed(model) and can_mix(model)


def reads_packed(model: Any) -> bool:
    """Whether prompts are read in packs, and then go on in batches padded on the left; models that
    cannot do the one may see the padding of the other."""
    from chatpipe.packing.batching import PACKED, batching_for

    return batching_for(model) is PACKED


def _runs(model: Any, questions: Sequence[Question]) -> list[list[Question]]:
    """Questions that may share batches: all; or those of each adapter; or, without packs, those
    of one adapter and length, which need no padding."""
    if mixes_adapters(model):
        return [list(questions)]
    alike = _adapter_of if reads_packed(model) else _adapter_and_length
    return [list(run) for _, run in groupby(sorted(questions, key=alike), alike)]


def _adapter_of(question: Question) -> str:
    return question.adapter or ""


def _adapter_and_length(question: Question) -> tuple[str, int]:
    return _adapter_of(question), len(question.ids)


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


def room_tokens(model: Any) -> float:
    """Tokens whose keys and values take no more than a share of the memory that is free: a cache is
    copied as it grows."""
    from chatpipe.models.devices import free_memory_bytes

    of_token = max(1, _cache_bytes(model, [0, 0]) / 2)
    return CACHE_SHARE * free_memory_bytes() / of_token


def _cache_bytes(model: Any, ids: list[int]) -> int:
    """Bytes of what the model keeps of these tokens; 0 where it keeps nothing."""
    import torch

    inputs = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.no_grad():
        out = model(input_ids=inputs)
    kept = next((out[name] for name in CACHES if out.get(name) is not None), None)
    return _tensor_bytes(kept)


def _tensor_bytes(part: Any, depth: int = 6) -> int:
    """Bytes of all tensors within that: lists, dictionaries and the caches of transformers."""
    import torch

    if isinstance(part, torch.Tensor):
        return part.nbytes
    if hasattr(part, "__dict__"):
        part = vars(part)
    parts = part.values() if isinstance(part, dict) else part
    if depth and isinstance(part, dict | list | tuple):
        return sum(_tensor_bytes(inner, depth - 1) for inner in parts)
    return 0


def _complete_batch(
    model: Any,
    stops: Sequence[int],
    questions: Sequence[Question],
    generation: Generation,
    has_ended: HasEnded | None,
) -> list[list[int]]:
    """The new ids of one batch, padded on the left where lengths differ."""
    import torch

    from chatpipe.generation.prefill import prefill
    from chatpipe.generation.sampling import generation_arguments
    from chatpipe.kernels.lora_inference import row_by_row
    from chatpipe.kernels.packed_weights import packed_weights

    ids = [question.ids for question in questions]
    adapters = [question.adapter for question in questions]
    width = max(map(len, ids))
    device = next(model.parameters()).device
    eos = stops[0]
    padded = torch.tensor([[eos] * (width - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    report = Reporter(generation.max_new_tokens, "tokens")

    def tell(so_far: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion, transformers' hook after every token: which rows have ended."""
        report(so_far.shape[1] - width)
        if has_ended is None:
            return torch.zeros(so_far.shape[0], dtype=torch.bool, device=so_far.device)
        return torch.tensor([*map(has_ended, so_far[:, width:].tolist())], device=so_far.device)

    read = {"past_key_values": prefill(model, ids, adapters)} if reads_packed(model) else {}
    with torch.no_grad(), packed_weights(model), row_by_row(model, adapters):
        out = model.generate(
            input_ids=padded,
            attention_mask=mask,
            stopping_criteria=[tell],
            **read,
            **generation_arguments(generation, ids, stops),
        )
    return [row[width:].tolist() for row in out]


def up_to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Those new ids before the first one that ends an answer, if there is one."""
    end = next((place for place, number in enumerate(ids) if number in stops), None)
    return ids[:end]


def completion_of(ids: list[int], tokenizer: Any, stops: Sequence[int]) -> Completion:
    """Those new tokens up to EOS or the end of the turn, if there is one."""
    written = up_to_stop(ids, stops)
    stopped = len(written) < len(ids)
    text = tokenizer.decode(written, skip_special_tokens=True).strip()
    return Completion(text, len(written) + stopped, "eos" if stopped else "length")

"""An exported model against the one that chatpipe computes with: greedy tokens and distributions.

The rule for greedy tokens: after the same tokens, both have to choose the same next one. Where the
exported model chooses another, the model here gives that one nearly the same probability (a near
tie, which rounding breaks) or the export has failed. How near follows from the rounding that was
measured: where it changes log-probabilities by x, the KL divergence is about Var(x) / 2, and the
difference of two of them changes with the variance 2 Var(x) = 4 KL. A gap of up to DEVIATIONS
standard deviations, 2 √KL each, is a near tie. The KL divergence has a bound of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatpipe.config.schema import Generation, Quantization
from chatpipe.errors import ExportError
from chatpipe.export.effect import Share, Three, share_of
from chatpipe.export.prompts import NEW_TOKENS

MOST_SHOWN = 3  # near ties that are printed, the largest
DEVIATIONS = 3.0  # standard deviations of a gap that rounding is taken to change
MUCH = 10.0  # times the divergence by rounding: what an adapter changes for its faults to be plain
PLACES = (0, 8, 24, 48)  # of a reply, before whose tokens distributions are compared


@dataclass(frozen=True)
class Bounds:
    """The largest mean KL divergence of a next-token distribution, and the difference of
    log-probabilities (nats) that is a near tie however little rounding was measured."""

    divergence: float
    tie: float

    def tie_by(self, measured: float) -> float:
        """The largest difference that is a near tie, where that mean divergence was measured."""
        return max(self.tie, DEVIATIONS * 2 * math.sqrt(max(0.0, min(measured, self.divergence))))


BOUNDS = {
    "f32": Bounds(1e-3, 0.02),
    "f16": Bounds(1e-3, 0.05),
    "bf16": Bounds(1e-2, 0.2),
    "q8_0": Bounds(1e-2, 0.2),
}


@dataclass(frozen=True)
class Expected:
    """What the model here makes of a prompt.

    ids: the prompt's; reply: its greedy tokens, the one that ends it included; log_probabilities:
    (tokens of the reply, vocabulary), of each of them; of_base: the same of the base alone, where
    that was computed.
    """

    ids: list[int]
    reply: list[int]
    log_probabilities: torch.Tensor
    of_base: torch.Tensor | None = None

    @property
    def effect(self) -> float:
        """What the adapter changes: the mean KL divergence (nats) of the base's distributions."""
        if self.of_base is None:
            return float("nan")
        return float(divergence(self.log_probabilities, self.of_base).mean())

    @property
    def places(self) -> list[int]:
        """Places of the reply whose distributions are compared."""
        return [place for place in PLACES if place < len(self.reply)]


def is_faint(expected: Sequence[Expected], bounds: Bounds) -> bool:
    """Whether the adapter changes so little that rounding within these bounds may hide it."""
    effects = [one.effect for one in expected]
    return sum(effects) < MUCH * bounds.divergence * len(effects)


@dataclass(frozen=True)
class Difference:
    """A token that the exported model chose instead. gap: how much less probable the model here
    has it, in nats."""

    prompt: int
    place: int
    gap: float


@dataclass(frozen=True)
class Comparison:
    """How the exported model compares.

    tokens: greedy tokens that were compared; divergence: the mean KL divergence (nats) of
    `distributions` next-token distributions, from the model here to the exported one; share: what
    part it has of the change that the adapter makes to the base's; ended: replies that ended at
    their own end, of `endings`.
    """

    tokens: int
    differences: list[Difference]
    divergence: float
    largest: float
    distributions: int
    share: Share
    ended: int
    endings: int

    def sentence(self, others_are: str = "near ties") -> str:
        """What was compared, and with what result."""
        same = self.tokens - len(self.differences)
        text = f"{same} of {self.tokens} greedy tokens are the same"
        if self.differences:
            shown = "; ".join(
                f"token {one.place + 1} of prompt {one.prompt + 1} by {one.gap:.4f} nats"
                for one in sorted(self.differences, key=lambda one: -one.gap)[:MOST_SHOWN]
            )
            others = len(self.differences) - MOST_SHOWN
            more = f"; and {others} more" if others > 0 else ""
            text += f" ({others_are}: {shown}{more})"
        text += (
            f", KL {self.divergence:.2g} nats on average and {self.largest:.2g} at most "
            f"({self.distributions} distributions)"
        )
        text += f", {self.share.words()}"
        if self.endings:
            text += f", {self.ended} of {self.endings} replies end at their end token"
        else:
            text += f", no reply ended within {NEW_TOKENS} tokens"
        return text + "."


def expected_replies(
    base: Path,
    adapter: Path,
    quantization: Quantization,
    prompts: Sequence[list[int]],
    stops: Sequence[int],
) -> list[Expected]:
    """What chatpipe's own model makes of the prompts, as `ask` computes it, but with products in
    float32 where its weights are dequantized: half precision would be most of a difference."""
    from chatpipe.generation.batch import written_ids
    from chatpipe.generation.row_request import RowRequest
    from chatpipe.kernels.dequantize import is_quantized
    from chatpipe.kernels.lora_inference import switched_to
    from chatpipe.models.inference import load_model

    model = load_model(base, adapter, quantization)
    if not is_quantized(model):
        torch.nn.Module.to(model, torch.float32)
    greedy = Generation(max_new_tokens=NEW_TOKENS, temperature=0)
    ends = frozenset(stops)
    rows = [RowRequest(n, ids, adapter.name, ends, greedy) for n, ids in enumerate(prompts)]
    replies = written_ids(model, rows)
    pairs = list(zip(prompts, replies, strict=True))
    own = [log_probabilities(model, ids, reply) for ids, reply in pairs]
    with switched_to(model, None):
        of_base = [log_probabilities(model, ids, reply) for ids, reply in pairs]
    return [Expected(*parts) for parts in zip(prompts, replies, own, of_base, strict=True)]


def log_probabilities(model: Any, ids: list[int], reply: list[int]) -> torch.Tensor:
    """(tokens of the reply, vocabulary), of every token after the ones before it, in float32."""
    inputs = torch.tensor([ids + reply[:-1]], device=next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=inputs).logits[0, len(ids) - 1 :]
    values: torch.Tensor = logits.float().log_softmax(-1).cpu()
    return values


def compare_model(expected: Sequence[Expected], model: Any, stops: Sequence[int]) -> Comparison:
    """Compare a transformers model, at every token."""
    differences: list[Difference] = []
    divergences: list[float] = []
    triples: list[Three] = []
    for number, one in enumerate(expected):
        own = log_probabilities(model, one.ids, one.reply)
        differences += [
            _difference(one, number, place, int(token))
            for place, token in enumerate(own.argmax(-1))
            if int(token) != one.reply[place]
        ]
        divergences += divergence(one.log_probabilities, own).tolist()
        if one.of_base is not None:
            triples.append((one.log_probabilities, own, one.of_base))
    ends = [(n, len(one.reply) - 1) for n, one in enumerate(expected) if one.reply[-1] in stops]
    wrong = {(d.prompt, d.place) for d in differences}
    ended = len([place for place in ends if place not in wrong])
    tokens = sum(len(one.reply) for one in expected)
    return _comparison(triples, tokens, differences, divergences, ended, len(ends))


def compare_llama_cpp(
    expected: Sequence[Expected], model: Path, adapters: Sequence[Path], stops: Sequence[int]
) -> Comparison:
    """Compare a GGUF file: every greedy token, and the distributions at some places."""
    from chatpipe.export import llama_cpp

    questions = [llama_cpp.Question(one.ids, one.reply, one.places) for one in expected]
    answers = llama_cpp.ask(model, adapters, questions)
    differences = [
        _difference(one, number, place, token)
        for number, (one, others) in enumerate(zip(expected, answers.differences, strict=True))
        for place, token in others
    ]
    divergences = []
    triples: list[Three] = []
    for (number, place), values in answers.distributions.items():
        here = expected[number].log_probabilities[place]
        # What llama.cpp prints is rounded, so that its probabilities hardly have the sum of 1.
        there = torch.from_numpy(values)[: len(here)].double().log_softmax(-1)
        divergences.append(float(divergence(here, there)))
        of_base = expected[number].of_base
        if of_base is not None:
            triples.append((here, there, of_base[place]))
    ends = [number for number, one in enumerate(expected) if one.reply[-1] in stops]
    ended = len([number for number in ends if answers.stops[number] == "eos"])
    tokens = sum(answers.compared)
    return _comparison(triples, tokens, differences, divergences, ended, len(ends))


def check(comparison: Comparison, bounds: Bounds) -> None:
    """ExportError where the exported model is not the one here."""
    worst = max(comparison.differences, key=lambda one: one.gap, default=None)
    reasons = []
    tie = bounds.tie_by(comparison.divergence)
    if worst and not worst.gap <= tie:
        reasons.append(
            f"it chooses another token {worst.place + 1} after prompt {worst.prompt + 1}, which "
            f"has {worst.gap:.3f} nats less here (by the rounding measured, a near tie is at most "
            f"{tie:.2g}; weights of more bits, --outtype f16 or f32, are nearer)"
        )
    if not comparison.divergence <= bounds.divergence:  # nor NaN
        reasons.append(
            f"its distributions differ by {comparison.divergence:.2g} nats (KL), at most "
            f"{bounds.divergence:g} is rounding"
        )
    share = comparison.share
    if share.is_known and not share.is_whole:
        reasons.append(
            f"it has {share.words()}: a training of a few steps changes weights by less than their "
            "type can tell apart, which --outtype f32 keeps; where that is not 100 % either, "
            "LoRA's scale is another or a layer is missing"
        )
    if comparison.ended < comparison.endings:
        missed = comparison.endings - comparison.ended
        reasons.append(f"{missed} of {comparison.endings} replies do not end where they end here")
    if reasons:
        raise ExportError(f"what was written is not the model: {'; '.join(reasons)}.")


def divergence(here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """KL divergence in nats over the last dimension, of log-probabilities."""
    here, there = here.double(), there.double()
    return (here.exp() * (here - there)).sum(-1)


def _comparison(
    triples: Sequence[Three],
    tokens: int,
    differences: list[Difference],
    divergences: list[float],
    ended: int,
    endings: int,
) -> Comparison:
    return Comparison(
        tokens=tokens,
        differences=differences,
        divergence=sum(divergences) / len(divergences),
        largest=max(divergences),
        distributions=len(divergences),
        share=share_of(triples),
        ended=ended,
        endings=endings,
    )


def _difference(one: Expected, number: int, place: int, token: int) -> Difference:
    here = one.log_probabilities[place]
    is_known = 0 <= token < len(here)
    gap = float(here[one.reply[place]] - here[token]) if is_known else float("inf")
    return Difference(number, place, max(gap, 0.0))

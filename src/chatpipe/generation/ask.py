"""The prompt panel, asked of models of one base in one batch: raw and with the template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.prompt_schema import AnyTemplate, Prompt
from chatpipe.config.prompts import raw_prompt
from chatpipe.config.schema import Generation, Quantization, Variant
from chatpipe.generation.batch import Completion, Question, complete_ids, mixes_adapters
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.positions import check_positions
from chatpipe.store.artifact import Artifact, Request
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import AskedPrompt, Encoder


class Ask(Request):
    """One model on the panel. Raw: the prompt alone, as the paper asked its base models."""

    kind: ClassVar[str] = "generations"
    version: ClassVar[int] = 7
    oom_hint: ClassVar[str] = "lower generation.max_new_tokens or ask fewer prompts"

    base: Artifact
    adapter: Artifact | None
    prompt_template: AnyTemplate
    quantization: Quantization
    panel: tuple[Prompt, ...]
    generation: Generation
    asked: tuple[str, ...]  # "template", "raw" or both

    @classmethod
    def of(cls, variant: Variant, model: ModelRef, is_asked_raw: bool | None = None) -> Ask:
        """Return the request for the model's answers to the variant's panel. A base is asked raw as
        well, unless `is_asked_raw` says otherwise."""
        raw = model.adapter is None if is_asked_raw is None else is_asked_raw
        return cls(
            base=model.base,
            adapter=model.adapter,
            prompt_template=variant.prompt_template,
            quantization=variant.quantization,
            panel=variant.panel,
            generation=variant.generation,
            asked=("template", "raw") if raw else ("template",),
        )

    def build(self, into: Path) -> dict[str, Any]:
        return answered([self])[0].written(into)

    def questions(self) -> list[tuple[Prompt, str]]:
        """(prompt, how it is asked)."""
        return [(prompt, asked) for asked in self.asked for prompt in self.panel]

    def encoder(self, tokenizer: Any) -> Encoder:
        """Return what turns its prompts into token ids."""
        return Encoder(tokenizer, self.prompt_template, "all", 1 << 20)

    def prompt_ids(self, tokenizer: Any) -> list[list[int]]:
        """For each of the questions, the token ids that the model goes on from.

        Raises ModelError where one with its answer is too long for the base, and ConfigError where
        the template does not work with it.
        """
        asked: list[AskedPrompt] = [
            raw_prompt(prompt) if asked == "raw" else Conversation.of(prompt)
            for prompt, asked in self.questions()
        ]
        ids = self.encoder(tokenizer).prompt_ids(asked)
        check_positions(
            self.base.path,
            max(map(len, ids)) + self.generation.max_new_tokens,
            "the longest prompt of the panel with generation.max_new_tokens",
            "shorten it or lower max_new_tokens",
        )
        return ids

    def answer(self, prompt: Prompt, asked: str, completion: Completion) -> dict[str, Any]:
        """That answer as answers.json has it."""
        return {
            "prompt_id": prompt.id,
            "asked": asked,
            "instruction": prompt.instruction,
            "input": prompt.input,
            **prompt.model_dump(include={"system", "history"}, exclude_defaults=True),
            "text": completion.text,
            "tokens": completion.tokens,
            "stop": completion.stop,
            "settings": self.generation.model_dump(),
        }


@dataclass(frozen=True)
class Answers:
    """What one model said to its panel, and how it was asked."""

    answers: list[dict[str, Any]]
    details: dict[str, Any]

    def written(self, into: Path) -> dict[str, Any]:
        """Write answers.json there; the details."""
        text = json.dumps(self.answers, indent=1, ensure_ascii=False)
        (into / "answers.json").write_text(text, "utf-8")
        return self.details


def answered(asks: Sequence[Ask]) -> list[Answers]:
    """The answers to each of these, which must be of one base, quantization and generation; those
    that stop at the same tokens are in the same batches."""
    from chatpipe.models import devices, inference, loading

    base, quantization, generation = asks[0].base, asks[0].quantization, asks[0].generation
    tokenizer = loading.load_tokenizer(base.path)
    prompt_ids = [ask.prompt_ids(tokenizer) for ask in asks]
    stops = [tuple(ask.encoder(tokenizer).renderer.stops) for ask in asks]
    adapters = [ask.adapter for ask in asks if ask.adapter]
    completions: dict[int, list[Completion]] = {}
    together: dict[int, int] = {}
    with inference.recorded_model(base, adapters, quantization) as (model, details):
        for group in _groups(stops):
            asked = [(asks[index], ids) for index in group for ids in prompt_ids[index]]
            questions = [
                Question(ids, ask.adapter.key if ask.adapter else None, place)
                for place, (ask, ids) in enumerate(asked)
            ]
            done = iter(complete_ids(model, tokenizer, stops[group[0]], questions, generation))
            completions |= {index: [next(done) for _ in prompt_ids[index]] for index in group}
            together |= dict.fromkeys(group, len(group) if mixes_adapters(model) else 1)
    details["device"] = devices.device_name()
    return [
        Answers(
            [ask.answer(*question, next(of_ask)) for question in ask.questions()],
            {**details, "models_asked_together": together[index]},
        )
        for index, ask in enumerate(asks)
        for of_ask in [iter(completions[index])]
    ]


def _groups(stops: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """The indices of equal stops together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, ends in enumerate(stops):
        groups.setdefault(ends, []).append(index)
    return list(groups.values())

"""The prompt panel, asked of models of one base in one batch: raw and with the template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.prompt_schema import AnyTemplate, ChatTemplate, Prompt
from chatpipe.config.prompts import raw_prompt
from chatpipe.config.schema import Generation, Quantization, Variant
from chatpipe.generation.batch import Completion, complete, mixes_adapters
from chatpipe.kernels.switch import recorded_kernels
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

    def prompts(self) -> list[AskedPrompt]:
        """For each of the questions, what the model goes on from."""
        return [
            raw_prompt(prompt) if asked == "raw" else Conversation(prompt.instruction, prompt.input)
            for prompt, asked in self.questions()
        ]

    def stops_as(self, other: Ask) -> bool:
        """Whether answers to both end at the same tokens, so that one batch may have both."""
        templates = (self.prompt_template, other.prompt_template)
        is_chat = any(isinstance(template, ChatTemplate) for template in templates)
        return not is_chat or templates[0] == templates[1]

    def answer(self, prompt: Prompt, asked: str, completion: Completion) -> dict[str, Any]:
        """That answer as answers.json has it."""
        return {
            "prompt_id": prompt.id,
            "asked": asked,
            "instruction": prompt.instruction,
            "input": prompt.input,
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


def checked_prompt_ids(asks: Sequence[Ask], tokenizer: Any) -> list[list[int]]:
    """Return the token ids of all prompts of these, which must be of one base and template.

    Raises ModelError where one with its answer is too long for the base, and ConfigError where the
    template does not work with it.
    """
    encoder = Encoder(tokenizer, asks[0].prompt_template, "all", 1 << 20)
    ids = encoder.prompt_ids([prompt for ask in asks for prompt in ask.prompts()])
    check_positions(
        asks[0].base.path,
        max(map(len, ids)) + asks[0].generation.max_new_tokens,
        "the longest prompt of the panel with generation.max_new_tokens",
        "shorten it or lower max_new_tokens",
    )
    return ids


def answered(asks: Sequence[Ask]) -> list[Answers]:
    """The answers to each of these, which must be of one base, quantization and generation, and
    stop at the same tokens."""
    from chatpipe.models import devices, inference, loading, sharding

    base, quantization, generation = asks[0].base, asks[0].quantization, asks[0].generation
    tokenizer = loading.load_tokenizer(base.path)
    encoder = Encoder(tokenizer, asks[0].prompt_template, "all", 1 << 20)
    questions = [(ask, prompt) for ask in asks for prompt in ask.prompts()]
    checked_prompt_ids(asks, tokenizer)
    through = [ask.adapter.key if ask.adapter else None for ask, _ in questions]
    adapters = [ask.adapter.path for ask in asks if ask.adapter]
    with (
        recorded_kernels() as kernels,
        inference.cached_model(base.path, adapters, quantization) as model,
    ):
        details = {
            "device": devices.device_name(),
            "base_streamed": sharding.is_sharded(model),
            "models_asked_together": len(asks) if mixes_adapters(model) else 1,
        }
        prompts = [prompt for _, prompt in questions]
        completions = iter(complete(model, encoder, prompts, generation, through))
        details |= kernels.details()
    return [
        Answers(
            [ask.answer(prompt, asked, next(completions)) for prompt, asked in ask.questions()],
            details,
        )
        for ask in asks
    ]

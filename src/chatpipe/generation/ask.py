"""The prompt panel and prompts of held-out rows, asked of models of one base in one batch: raw and
with the template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from chatpipe.config.prompt_schema import AnyTemplate, Prompt
from chatpipe.config.prompts import raw_prompt
from chatpipe.config.schema import Generation, Quantization, Variant
from chatpipe.errors import ConfigError, DataError
from chatpipe.generation.batch import Completion
from chatpipe.generation.capacity import mixes_adapters
from chatpipe.generation.heldout_prompts import heldout_prompts
from chatpipe.generation.prompted import CompletePrompts
from chatpipe.generation.row_request import RowRequest
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.positions import check_positions, position_fault, positions_of
from chatpipe.store.artifact import Artifact, Request
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import AskedPrompt, Encoder


class AskedQuestion(NamedTuple):
    """A prompt, how it is asked ("template" or "raw"), and the token ids that a model goes on
    from."""

    prompt: Prompt
    asked: str
    ids: list[int]


class Ask(Request):
    """One model on the panel, or on prompts of a held-out set. Raw: the prompt alone, as the paper
    asked its base models."""

    kind: ClassVar[str] = "generations"
    version: ClassVar[int] = 7
    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset({"heldout", "rows"})
    oom_hint: ClassVar[str] = "lower generation.max_new_tokens or ask fewer prompts"

    base: Artifact
    adapter: Artifact | None
    prompt_template: AnyTemplate
    quantization: Quantization
    panel: tuple[Prompt, ...]
    generation: Generation
    asked: tuple[str, ...]  # "template", "raw" or both
    heldout: Artifact | None = None  # whose rows are asked about, instead of a panel
    rows: int = 0  # how many of them

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

    @classmethod
    def about_rows(cls, variant: Variant, model: ModelRef, heldout: Artifact) -> Ask:
        """Return the request for the model's answers to some prompts of a held-out set."""
        panel = cls.of(variant, model, is_asked_raw=False)
        update = {"panel": (), "heldout": heldout, "rows": variant.panel_rows}
        return panel.model_copy(update=update)

    @property
    def most_questions(self) -> int:
        """How many questions there are at most."""
        return len(self.asked) * (self.rows if self.heldout else len(self.panel))

    def build(self, into: Path) -> dict[str, Any]:
        return answered([self])[0].written(into)

    def encoder(self, tokenizer: Any) -> Encoder:
        """Return what turns its prompts into token ids."""
        return Encoder(tokenizer, self.prompt_template, "all", 1 << 20)

    def questions(self, tokenizer: Any) -> list[AskedQuestion]:
        """Return what the model is asked.

        Raises ModelError where a prompt of the panel with its answer is too long for the base, and
        ConfigError where the template does not work with it. Such rows of a held-out set are left
        out.
        """
        return self._panel(tokenizer) if self.heldout is None else self._rows(tokenizer)

    def _panel(self, tokenizer: Any) -> list[AskedQuestion]:
        pairs = [(prompt, asked) for asked in self.asked for prompt in self.panel]
        prompts: list[AskedPrompt] = [
            raw_prompt(prompt) if asked == "raw" else Conversation.of(prompt)
            for prompt, asked in pairs
        ]
        ids = self.encoder(tokenizer).prompt_ids(prompts)
        check_positions(
            self.base.path,
            max(map(len, ids)) + self.generation.max_new_tokens,
            "the longest prompt of the panel with generation.max_new_tokens",
            "shorten it or lower max_new_tokens",
        )
        parts = zip(pairs, ids, strict=True)
        return [AskedQuestion(prompt, asked, row) for (prompt, asked), row in parts]

    def _rows(self, tokenizer: Any) -> list[AskedQuestion]:
        from chatpipe.models.base_checks import base_config

        assert self.heldout is not None
        encoder = self.encoder(tokenizer)
        positions = positions_of(base_config(self.base.path))
        questions = []
        for prompt in heldout_prompts(self.heldout.path, self.rows):
            try:
                [ids] = encoder.prompt_ids([Conversation.of(prompt)])
            except (ConfigError, DataError):
                continue
            if not position_fault(positions, len(ids) + self.generation.max_new_tokens, "", ""):
                questions.append(AskedQuestion(prompt, "template", ids))
        return questions

    def answer(self, question: AskedQuestion, completion: Completion) -> dict[str, Any]:
        """That answer as answers.json has it."""
        prompt = question.prompt
        return {
            "prompt_id": prompt.id,
            "asked": question.asked,
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
    """The answers to each of these, which must be of one base, quantization and generation."""
    from chatpipe.models import loading
    from chatpipe.models.several_devices import recorded_model_with_helpers

    tokenizer = loading.load_tokenizer(asks[0].base.path)
    questions = [ask.questions(tokenizer) for ask in asks]
    request = _request(asks, questions, tokenizer)
    with recorded_model_with_helpers(
        request.base, request.adapters, request.quantization, request.batches
    ) as (model, details, helpers):
        completions = iter(request.completions_with(helpers, model, tokenizer))
        together = len(asks) if mixes_adapters(model) else 1
    return [
        Answers(
            [ask.answer(question, next(completions)) for question in of_ask],
            {**details, "models_asked_together": together},
        )
        for ask, of_ask in zip(asks, questions, strict=True)
    ]


def _request(
    asks: Sequence[Ask], questions: Sequence[Sequence[AskedQuestion]], tokenizer: Any
) -> CompletePrompts:
    """Return the request for the answers to the questions that each model is asked."""
    stops = [frozenset(ask.encoder(tokenizer).renderer.stops) for ask in asks]
    rows = [
        (question.ids, ask.adapter.key if ask.adapter else None, ends)
        for ask, of_ask, ends in zip(asks, questions, stops, strict=True)
        for question in of_ask
    ]
    return CompletePrompts(
        base=asks[0].base,
        adapters=tuple(ask.adapter for ask in asks if ask.adapter),
        quantization=asks[0].quantization,
        rows=tuple(RowRequest(n, *row, asks[0].generation) for n, row in enumerate(rows)),
    )

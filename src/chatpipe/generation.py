"""The prompt panel, asked of a model in one batch: base and adapters, raw and with the template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.artifacts import Artifact, Request
from chatpipe.config import Generation, Prompt, PromptTemplate, Quantization, Variant
from chatpipe.progress import Reporter
from chatpipe.prompts import raw_prompt, render
from chatpipe.tokenization import Encoder

AT_ONCE = 64  # prompts in a batch, whose caches are in memory together


class Ask(Request):
    """One model on the panel. Raw: the prompt alone, as the paper asked its base models."""

    kind: ClassVar[str] = "generations"
    version: ClassVar[int] = 2

    base: Artifact
    adapter: Artifact | None
    prompt_template: PromptTemplate
    quantization: Quantization
    panel: tuple[Prompt, ...]
    generation: Generation
    asked: tuple[str, ...]  # "template", "raw" or both

    @classmethod
    def of(cls, variant: Variant, base: Artifact, adapter: Artifact | None) -> Ask:
        """The variant's panel for its adapter, or for the base (which is asked raw as well)."""
        return cls(
            base=base,
            adapter=adapter,
            prompt_template=variant.prompt_template,
            quantization=variant.quantization,
            panel=variant.panel,
            generation=variant.generation,
            asked=("template",) if adapter else ("template", "raw"),
        )

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe import modeling, sharding

        tokenizer = modeling.load_tokenizer(self.base.path)
        adapter = self.adapter.path if self.adapter else None
        questions = [(prompt, asked) for asked in self.asked for prompt in self.panel]
        texts = [self._text(prompt, asked) for prompt, asked in questions]
        encoder = Encoder(tokenizer, self.prompt_template, "all", 1 << 20)
        with modeling.lent_model(self.base.path, adapter, self.quantization) as model:
            streamed = sharding.is_sharded(model)
            completions = complete(model, encoder, texts, self.generation)
        answers = [
            {
                "prompt_id": prompt.id,
                "asked": asked,
                "instruction": prompt.instruction,
                "input": prompt.input,
                "text": completion.text,
                "tokens": completion.tokens,
                "stop": completion.stop,
                "settings": self.generation.model_dump(),
            }
            for (prompt, asked), completion in zip(questions, completions, strict=True)
        ]
        text = json.dumps(answers, indent=1, ensure_ascii=False)
        (into / "answers.json").write_text(text, "utf-8")
        return {"device": modeling.device_name(), "base_streamed": streamed}

    def _text(self, prompt: Prompt, asked: str) -> str:
        if asked == "raw":
            return raw_prompt(prompt)
        return render(self.prompt_template, prompt.instruction, prompt.input)


@dataclass(frozen=True)
class Completion:
    """What a model wrote: text, its tokens (EOS included), and why it stopped: eos or length."""

    text: str
    tokens: int
    stop: str


def complete(
    model: Any, encoder: Encoder, prompts: Sequence[str], generation: Generation
) -> list[Completion]:
    """Complete the prompts, as many at once as AT_ONCE says; the same seed gives the same text."""
    from transformers import set_seed

    set_seed(generation.seed)
    ids = encoder.prompt_ids(prompts)
    batches = [ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE)]
    return [
        completion
        for batch in batches
        for completion in _complete_batch(model, encoder, batch, generation)
    ]


def _complete_batch(
    model: Any, encoder: Encoder, ids: Sequence[list[int]], generation: Generation
) -> list[Completion]:
    """One left-padded batch."""
    import torch

    from chatpipe.prefill import prefill

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

    with torch.no_grad():
        out = model.generate(
            input_ids=padded,
            attention_mask=mask,
            past_key_values=prefill(model, ids),
            stopping_criteria=[tell],
            **sampling(generation, eos),
        )
    return [_completion(row[width:].tolist(), encoder.tokenizer) for row in out]


def sampling(generation: Generation, eos: int) -> dict[str, Any]:
    """transformers' arguments for those settings; the model's own defaults are not used."""
    from transformers import GenerationConfig

    chosen: dict[str, Any] = {"do_sample": False}
    if generation.temperature > 0:
        chosen = {
            "do_sample": True,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "top_k": 0,
        }
    config = GenerationConfig(
        max_new_tokens=generation.max_new_tokens, eos_token_id=eos, pad_token_id=eos, **chosen
    )
    return {"generation_config": config}


def _completion(ids: list[int], tokenizer: Any) -> Completion:
    eos = tokenizer.eos_token_id
    stopped = eos in ids
    written = ids[: ids.index(eos)] if stopped else ids
    text = tokenizer.decode(written, skip_special_tokens=True).strip()
    return Completion(text, len(written) + stopped, "eos" if stopped else "length")

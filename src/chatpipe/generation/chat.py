"""A conversation with a model: streamed replies, earlier turns kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from threading import Event, Thread
from typing import Any

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import segments
from chatpipe.config.schema import Generation, Quantization
from chatpipe.errors import ModelError
from chatpipe.models.base_checks import base_config
from chatpipe.models.positions import position_fault, positions_of
from chatpipe.tokenization.encoder import Encoder


class Conversation:
    """Turns in the template the adapter was trained on, each closed by EOS as in training."""

    def __init__(
        self, base: Path, adapter: Path | None, quantization: Quantization, template: PromptTemplate
    ) -> None:
        from chatpipe.models import loading

        tokenizer = loading.load_tokenizer(base)
        self.positions = positions_of(base_config(base))
        self.encoder = Encoder(tokenizer, template, "all", 1 << 20)
        self.ids: list[int] = []
        self._of = (base, adapter, quantization)

    @cached_property
    def model(self) -> Any:
        """Loaded when it is first needed: a question that is too long does not wait for it."""
        from chatpipe.models import inference

        return inference.load_model(*self._of)

    def reply(self, text: str, generation: Generation, input_text: str = "") -> Iterator[str]:
        """The model's reply, piece by piece as it is written. Closing the iterator (or Ctrl-C
        while it runs) stops the model; what was said so far stays in the conversation."""
        import torch
        from transformers import TextIteratorStreamer

        from chatpipe.generation.sampling import generation_arguments
        from chatpipe.kernels.lora_inference import active, through

        tokenizer = self.encoder.tokenizer
        turn = self.encoder.prompt_ids([segments(self.encoder.template, text, input_text)])[0]
        prompt = self.ids + turn
        fault = position_fault(
            self.positions,
            len(prompt) + generation.max_new_tokens,
            "the text with generation.max_new_tokens"
            if not self.ids
            else "the conversation so far with generation.max_new_tokens",
            "shorten it or lower max_new_tokens"
            if not self.ids
            else "start another one or lower max_new_tokens",
        )
        if fault:
            raise ModelError(fault)
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        stopped = Event()

        def stop(so_far: Any, scores: Any, **_: Any) -> Any:
            return torch.full((so_far.shape[0],), stopped.is_set(), device=so_far.device)

        ids = torch.tensor([prompt], device=next(self.model.parameters()).device)
        arguments = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "streamer": streamer,
            "stopping_criteria": [stop],
            **generation_arguments(generation, [prompt], tokenizer.eos_token_id),
        }
        written: list[int] = []
        failures: list[Exception] = []

        def generate() -> None:
            try:
                with torch.no_grad(), through(self.model, active(self.model)):
                    written.extend(self.model.generate(**arguments)[0].tolist())
            except Exception as error:
                failures.append(error)
                streamer.end()

        thread = Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            stopped.set()
            thread.join()
            self.ids = list(written or prompt)
            if self.ids[-1] != tokenizer.eos_token_id:
                self.ids.append(tokenizer.eos_token_id)
        if failures:
            raise failures[0]

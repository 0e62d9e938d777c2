"""A conversation with a model: streamed replies, earlier turns kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.config.schema import Generation, Quantization
from chatpipe.errors import ModelError
from chatpipe.generation.batch import completion_of
from chatpipe.generation.reply_text import ReplyText
from chatpipe.models.base_checks import base_config
from chatpipe.models.positions import position_fault, positions_of
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.encoder import Encoder

if TYPE_CHECKING:
    from chatpipe.generation.running_batch import RunningBatch


class ChatSession:
    """Turns in the template the adapter was trained on. Earlier turns stand before a question as
    they do in training: a text template's replies are closed by EOS, a chat template writes them
    in its own way."""

    def __init__(
        self,
        base: Path,
        adapter: Path | None,
        quantization: Quantization,
        template: AnyTemplate,
        system: str | None = None,
    ) -> None:
        from chatpipe.models import loading

        tokenizer = loading.load_tokenizer(base)
        self.positions = positions_of(base_config(base))
        self.encoder = Encoder(tokenizer, template, "all", 1 << 20)
        self.system = system  # stands before the first turn, for as long as the session lasts
        self.history: tuple[Message, ...] = ()
        self._of = (base, adapter, quantization)

    @cached_property
    def model(self) -> Any:
        """Loaded when it is first needed: a question that is too long does not wait for it."""
        from chatpipe.models import inference

        return inference.load_model(*self._of)

    @cached_property
    def rows(self) -> RunningBatch:
        """What writes the replies: a batch of one row, as the server's."""
        from chatpipe.generation.running_batch import RunningBatch

        return RunningBatch(self.model, most_rows=1)

    def conversation(self, text: str, input_text: str = "") -> Conversation:
        """Return the conversation so far with that question."""
        return Conversation(text, input_text, system=self.system, history=self.history)

    def reply(self, text: str, generation: Generation, input_text: str = "") -> Iterator[str]:
        """The model's reply, piece by piece as it is written. Closing the iterator (or Ctrl-C
        while it runs) stops the model; what was said so far stays in the conversation.

        All is computed in the calling thread: `models.concurrency` says what a second one costs.
        """
        conversation = self.conversation(text, input_text)
        [prompt] = self.encoder.prompt_ids([conversation])
        self._check_length(prompt, generation)
        written: list[int] = []
        rows = self.rows  # loads the model: where that fails, nothing is to be cleared
        try:
            yield from self._pieces(prompt, generation, written)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, or the iterator was closed
            self._keep(conversation, written)
            raise
        else:
            self._keep(conversation, written)
        finally:
            rows.clear()

    def _check_length(self, prompt: list[int], generation: Generation) -> None:
        """ModelError where the prompt and its reply are longer than the model's positions."""
        fault = position_fault(
            self.positions,
            len(prompt) + generation.max_new_tokens,
            "the text with generation.max_new_tokens"
            if not self.history
            else "the conversation so far with generation.max_new_tokens",
            "shorten it or lower max_new_tokens"
            if not self.history
            else "start another one or lower max_new_tokens",
        )
        if fault:
            raise ModelError(fault)

    def _pieces(
        self, prompt: list[int], generation: Generation, written: list[int]
    ) -> Iterator[str]:
        """Yield the reply's text as it becomes certain; its new tokens are added to `written`."""
        from chatpipe.generation.row_request import RowRequest
        from chatpipe.kernels.lora_inference import active

        stops = frozenset(self.encoder.renderer.stops)
        text = ReplyText(self.encoder.tokenizer, (), is_stripped=True)
        self.rows.join([RowRequest("reply", prompt, active(self.model), stops, generation)])
        end = None
        while not end:
            [new] = self.rows.step()
            end = new.end
            written.append(new.token)
            if end != "eos" and (piece := text.add(new.token)):
                yield piece
        if rest := text.end(is_cut=end == "length"):
            yield rest

    def _keep(self, conversation: Conversation, written: list[int]) -> None:
        """Add the question and what was written after it to the conversation."""
        stops = self.encoder.renderer.stops
        reply = completion_of(written, self.encoder.tokenizer, stops).text
        turn = (Message("user", conversation.question), Message("assistant", reply))
        self.history = (*self.history, *turn)

"""How a row becomes the prompt and the reply of one tokenizer and one template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import segments
from chatpipe.config.template_text import Segment
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.text_encoder import TextEncoder, start_ids


class Renderer(ABC):
    """Prompts and replies of one tokenizer and one template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)

    @property
    @abstractmethod
    def identity(self) -> Any:
        """What, beside the tokenizer's own file, decides the ids; as JSON."""

    @property
    @abstractmethod
    def end(self) -> list[int]:
        """Ids after a reply that `replies` does not hold."""

    @property
    @abstractmethod
    def stops(self) -> list[int]:
        """Ids at which generation stops; EOS is the first."""

    @property
    def last_id(self) -> int:
        """The id that every whole row ends with."""
        return self.stops[-1]

    @abstractmethod
    def prompts(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Ids of all that stands before the last reply, BOS included: what generation goes on
        from, and what training has before that reply."""

    @abstractmethod
    def replies(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Ids of the replies of conversations without earlier turns."""


class TextRenderer(Renderer):
    """Texts with placeholders: the tokenizer's BOS stands before them, EOS after the reply."""

    def __init__(self, tokenizer: Any, template: PromptTemplate) -> None:
        super().__init__(tokenizer)
        self.template = template

    @property
    def identity(self) -> Any:
        return self.template.model_dump(mode="json")

    @property
    def end(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    @property
    def stops(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    def prompts(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        questions, replies = [], []
        for conversation in conversations:
            questions += self._questions(conversation)
            replies += [reply for _, reply in conversation.exchanges]
        questions_ids = iter(self.encoder.prompts(questions))
        replies_ids = iter(self.encoder.texts(replies))
        prompts = []
        for conversation in conversations:
            ids = []
            for _ in conversation.exchanges:
                ids += self._start + next(questions_ids) + next(replies_ids) + self.end
            prompts.append(ids + self._start + next(questions_ids))
        return prompts

    def replies(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        return self.encoder.texts([conversation.reply for conversation in conversations])

    def _questions(self, conversation: Conversation) -> list[list[Segment]]:
        """The prompt of every turn; a system text is a paragraph before the first."""
        prompts = [segments(self.template, text, "") for text, _ in conversation.exchanges]
        prompts.append(segments(self.template, conversation.instruction, conversation.input))
        if conversation.system:
            prompts[0] = [Segment(conversation.system + "\n\n", from_row=True), *prompts[0]]
        return prompts

    @cached_property
    def _start(self) -> list[int]:
        return start_ids(self.tokenizer)

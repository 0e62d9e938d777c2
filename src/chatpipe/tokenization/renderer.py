"""How a conversation becomes token ids of one tokenizer and one template."""

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

Ids = list[int]
# One example: for every reply that it scores, the ids before it (since the last one that it scores)
# and its own.
Spans = list[tuple[Ids, Ids]]


class RenderError(Exception):
    """A conversation that a template cannot write; the text is the reason, as it is counted."""


class Renderer(ABC):
    """Token ids of one tokenizer and one template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @property
    @abstractmethod
    def encoder(self) -> TextEncoder:
        """The tokenizer, with what it takes for control tokens."""

    @property
    @abstractmethod
    def identity(self) -> Any:
        """What, beside the tokenizer's own file, decides the ids; as JSON."""

    @property
    @abstractmethod
    def stops(self) -> list[int]:
        """Ids at which generation stops; EOS is the first."""

    @property
    def last_id(self) -> int:
        """The id that every scored reply ends with."""
        return self.stops[-1]

    @property
    def lead(self) -> str:
        """What the template writes between a prompt and the reply's own text, and is scored."""
        return ""

    @abstractmethod
    def prompts(self, conversations: Sequence[Conversation]) -> list[Ids]:
        """Ids of all that stands before the last reply, BOS included: what generation goes on
        from, and what training has before that reply."""

    @abstractmethod
    def examples(self, conversations: Sequence[Conversation]) -> list[list[Spans] | RenderError]:
        """The examples of each conversation, in which every reply that is scored is scored once.

        There is one, unless the template writes what stands before a later reply otherwise than it
        wrote it before (it drops earlier thoughts): from there on it is another example.
        """


class TextRenderer(Renderer):
    """Texts with placeholders, one after another: the tokenizer's BOS stands before each, EOS after
    each reply."""

    def __init__(self, tokenizer: Any, template: PromptTemplate) -> None:
        super().__init__(tokenizer)
        self.template = template

    @cached_property
    def encoder(self) -> TextEncoder:
        return TextEncoder(self.tokenizer, self.template.with_input + self.template.without_input)

    @property
    def identity(self) -> Any:
        return self.template.model_dump(mode="json")

    @property
    def stops(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    def prompts(self, conversations: Sequence[Conversation]) -> list[Ids]:
        prompts = []
        for spans in self._spans(conversations):
            *earlier, (last, _) = spans
            prompts.append([number for span in earlier for ids in span for number in ids] + last)
        return prompts

    def examples(self, conversations: Sequence[Conversation]) -> list[list[Spans] | RenderError]:
        return [
            scored_examples(conversation, [spans])
            for conversation, spans in zip(conversations, self._spans(conversations), strict=True)
        ]

    def _spans(self, conversations: Sequence[Conversation]) -> list[Spans]:
        questions: list[list[Segment]] = []
        replies: list[str] = []
        for conversation in conversations:
            exchanges = conversation.exchanges
            questions += self._questions(conversation, exchanges)
            replies += [reply for _, reply in exchanges]
            replies.append(conversation.reply)
        pairs = zip(self.encoder.prompts(questions), self.encoder.texts(replies), strict=True)
        start, end = self._start, [self.tokenizer.eos_token_id]
        spans = ((start + question, reply + end) for question, reply in pairs)
        return [
            [next(spans) for _ in range(1 + len(conversation.history) // 2)]
            for conversation in conversations
        ]

    def _questions(
        self, conversation: Conversation, exchanges: Sequence[tuple[str, str]]
    ) -> list[list[Segment]]:
        """The prompt of every turn; a system text is in the first one alone."""
        system = conversation.system or ""
        last = (conversation.instruction, conversation.input)
        if not exchanges:
            return [segments(self.template, *last, system)]
        (first, _), *others = exchanges
        return [
            segments(self.template, first, "", system),
            *(segments(self.template, text, "") for text, _ in others),
            segments(self.template, *last),
        ]

    @cached_property
    def _start(self) -> Ids:
        return start_ids(self.tokenizer)


def scored_examples(conversation: Conversation, examples: list[Spans]) -> list[Spans]:
    """The examples of all replies without those that are not scored: these are a part of what
    stands before the next reply."""
    if all(message.is_scored for message in conversation.history):
        return examples
    is_scored = iter(conversation.scored_replies)
    kept = []
    for example in examples:
        spans: Spans = []
        before: Ids = []
        for prompt, reply in example:
            before = before + prompt
            if next(is_scored):
                spans.append((before, reply))
                before = []
            else:
                before = before + reply
        if spans:
            kept.append(spans)
    return kept

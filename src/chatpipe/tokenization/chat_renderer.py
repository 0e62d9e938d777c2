"""Token ids of conversations that a chat template writes, from BOS to the end of a turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from chatpipe.config.prompt_schema import AnyTemplate, ChatTemplate
from chatpipe.errors import ConfigError
from chatpipe.tokenization.chat_text import ChatText, Parts
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.renderer import (
    Ids,
    Renderer,
    RenderError,
    Spans,
    TextRenderer,
    scored_examples,
)
from chatpipe.tokenization.text_encoder import TextEncoder

_RENDERING = 2  # raised when the same template and texts would give other ids
WITHOUT_END = "a reply without the token that ends a turn"


class ChatRenderer(Renderer):
    """A chat template."""

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        super().__init__(tokenizer)
        self.text = ChatText(tokenizer, template)

    @property
    def encoder(self) -> TextEncoder:
        return self.text.encoder

    @property
    def identity(self) -> Any:
        special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        return [_RENDERING, self.text.jinja, self.text.template.options, special]

    @cached_property
    def stops(self) -> list[int]:
        return list(dict.fromkeys([self.tokenizer.eos_token_id, self.last_id]))

    @property
    def last_id(self) -> int:
        return self.encoder.control[self.text.frame.end_of_turn]

    @property
    def lead(self) -> str:
        return self.text.frame.lead

    def prompts(self, conversations: Sequence[Conversation]) -> list[Ids]:
        _ = self.text.frame  # checks the template
        parts = [self._prompt(conversation.prompt_messages) for conversation in conversations]
        return [[*chain.from_iterable(ids)] for ids in self._encoded(parts)]

    def examples(self, conversations: Sequence[Conversation]) -> list[list[Spans] | RenderError]:
        _ = self.text.frame
        written = [self._texts(conversation.messages) for conversation in conversations]
        texts = chain.from_iterable(w for w in written if not isinstance(w, RenderError))
        encoded = self._encoded(list(texts))
        return [
            w if isinstance(w, RenderError) else self._spans(one, [next(encoded) for _ in w])
            for one, w in zip(conversations, written, strict=True)
        ]

    def _texts(self, messages: Sequence[Message]) -> list[Parts] | RenderError:
        try:
            return self.text.texts(messages)
        except RenderError as fault:
            return fault

    def _prompt(self, messages: Sequence[Message]) -> Parts:
        """What stands before the reply. ConfigError where the template fails."""
        try:
            return self.text.texts(messages, is_strict=False)[-1]
        except RenderError as fault:
            shown = f"the conversation that begins with {messages[0].content[:40]!r}"
            raise ConfigError(
                [f"prompt_template: {fault} (of {shown}); {self.text.remedy}."]
            ) from fault

    def _spans(
        self, conversation: Conversation, texts: Sequence[list[Ids]]
    ) -> list[Spans] | RenderError:
        """The parts' ids in pairs."""
        examples = [list(zip(ids[::2], ids[1::2], strict=True)) for ids in texts]
        whole = all(reply and reply[-1] == self.last_id for spans in examples for _, reply in spans)
        return scored_examples(conversation, examples) if whole else RenderError(WITHOUT_END)

    def _encoded(self, texts: Sequence[Parts]) -> Iterator[list[Ids]]:
        """For each text, the ids of its parts."""
        end_of_turn = self.text.frame.end_of_turn
        before: list[str | None] = []
        for parts in texts:
            # A text begins with nothing before it; a reply follows text, and a prompt a reply.
            before += [None, *(("", end_of_turn)[place % 2] for place in range(len(parts) - 1))]
        ids = iter(self.encoder.encode([part for parts in texts for part in parts], before))
        return iter([[next(ids) for _ in parts] for parts in texts])


def renderer_of(tokenizer: Any, template: AnyTemplate) -> Renderer:
    """The renderer of that template."""
    if isinstance(template, ChatTemplate):
        return ChatRenderer(tokenizer, template)
    return TextRenderer(tokenizer, template)

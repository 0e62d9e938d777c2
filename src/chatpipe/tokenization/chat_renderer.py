"""Prompts and replies by a chat template, which is Jinja text that writes a whole conversation.

Where a reply begins is known from the conversation without it, rendered with the generation prompt;
so a prompt of training is what a model is asked with. Control tokens that a row's text spells out
are kept from the template by a mark within them, which is taken out again: they stay text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.config.prompt_schema import OWN_CHAT_TEMPLATE, AnyTemplate, ChatTemplate
from chatpipe.config.template_text import Segment
from chatpipe.errors import ConfigError
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.renderer import Renderer, TextRenderer

_RENDERING = 1  # raised when the same template and texts would give other ids
_PROBE = "chatpipe-probe-7e1f"  # a text that no template holds
# Today's date in a prompt would make other ids of the same row on another day.
_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
# Characters that Unicode has no letters for: one that a conversation does not hold is the mark.
_MARKS = (*map(chr, range(0xFDD0, 0xFDF0)), *map(chr, range(0xE000, 0xF900)))


class ChatRenderer(Renderer):
    """A chat template, which writes everything from BOS to the end of a turn."""

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        super().__init__(tokenizer)
        self.template = template

    @property
    def identity(self) -> Any:
        special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        return [_RENDERING, self.jinja, self.template.options, special]

    @property
    def end(self) -> list[int]:
        return []

    @cached_property
    def stops(self) -> list[int]:
        end = self.encoder.control[self._end_of_turn]
        return list(dict.fromkeys([self.tokenizer.eos_token_id, end]))

    @property
    def last_id(self) -> int:
        return self.encoder.control[self._end_of_turn]

    @cached_property
    def jinja(self) -> str:
        """The template's text, with a date of its own where it would write today's."""
        text = self.template.chat
        if text == OWN_CHAT_TEMPLATE:
            text = self._own_template()
        return _FIXED_DATE + text if "strftime_now" in text else text

    def prompts(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        return [self._ids(self._parts(conversation)) for conversation in conversations]

    def replies(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        return self.encoder.continuations(
            [self._reply(conversation) for conversation in conversations]
        )

    def _ids(self, parts: Sequence[list[Segment]]) -> list[int]:
        """Ids of a text in parts, of which no token reaches into the next."""
        [first] = self.encoder.prompts(parts[:1])
        return [*first, *chain.from_iterable(self.encoder.continuations(parts[1:]))]

    def _parts(self, conversation: Conversation) -> list[list[Segment]]:
        """All that stands before the last reply, in parts that begin where an earlier reply begins
        or ends: a model read that reply's ids as it wrote them.

        A template that writes an earlier turn otherwise than it wrote the last (one that drops
        earlier thoughts) begins anew there: what is before it is one part.
        """
        messages = conversation.asked
        mark = _mark(*(message.content for message in messages))
        parts: list[str] = []
        for place, message in enumerate(messages):
            if message.role != "user":
                continue
            prompt = self._marked_text(messages[: place + 1], mark, asks=True)
            before = "".join(parts)
            parts = [*parts, prompt[len(before) :]] if prompt.startswith(before) else [prompt]
            if place + 1 < len(messages):
                reply = self._reply_text(messages[: place + 2], prompt, mark)
                parts = [*parts, reply] if reply is not None else [f"{prompt}{mark}"]
        return [_unmarked(part, mark) for part in parts]

    def _reply(self, conversation: Conversation) -> list[Segment]:
        """What the template writes after the prompt, to the end of the turn."""
        messages = conversation.messages
        mark = _mark(*(message.content for message in messages))
        prompt = self._marked_text(messages[:-1], mark, asks=True)
        reply = self._reply_text(messages, prompt, mark)
        if reply is None:
            raise ConfigError(
                [
                    "prompt_template: the chat template writes the prompt or the end of a turn "
                    f"otherwise for the reply that begins with {conversation.reply[:40]!r}, so a "
                    "model would be asked with other tokens than it was trained on; take another "
                    "template or leave the row out."
                ]
            )
        return _unmarked(reply, mark)

    def _reply_text(self, messages: Sequence[Message], prompt: str, mark: str) -> str | None:
        """The last reply to the end of its turn, None where the prompt is not what precedes it."""
        whole = self._marked_text(messages, mark, asks=False)
        if not whole.startswith(prompt) or not whole[len(prompt) :].endswith(self._tail):
            return None
        return whole[len(prompt) : len(whole) - len(self._tail)] + self._to_end

    def _marked_text(self, messages: Sequence[Message], mark: str, asks: bool) -> str:
        """The text of the conversation; `mark` is between all letters of the control tokens that
        its messages spell out."""
        _ = self._tail  # checks the template
        return self._text([(m.role, self._with_mark(m.content, mark)) for m in messages], asks)

    def _with_mark(self, text: str, mark: str) -> str:
        """The text with the mark between all letters of each control token in it."""
        return self.encoder.pattern.sub(lambda match: mark.join(match.group()), text)

    def _text(self, messages: Sequence[tuple[str, str]], asks: bool) -> str:
        """What the template writes; messages: (role, content)."""
        try:
            text: str = self.tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                chat_template=self.jinja,
                tokenize=False,
                add_generation_prompt=asks,
                **self.template.options,
            )
        except Exception as error:  # whatever a template raises, and what Jinja says of it
            raise ConfigError(
                [
                    "prompt_template: the chat template fails on the conversation that begins "
                    f"with {messages[0][1][:40]!r}: {_one_line(error)}; take another template or "
                    "options."
                ]
            ) from error
        return text

    def _own_template(self) -> str:
        try:
            return str(self.tokenizer.get_chat_template())
        except Exception as error:  # none, or one that is no text
            raise ConfigError(
                [
                    "prompt_template: the base has no chat template that can be read; name one "
                    f"({', '.join(CHAT_TEMPLATES)}) or write its Jinja text."
                ]
            ) from error

    @cached_property
    def _tail(self) -> str:
        """What the template writes after a reply. ConfigError where a reply has no place of its own
        or where its end is no token that generation can stop at."""
        question = [("user", "a")]
        prompt = self._text(question, True)
        whole = self._text([*question, ("assistant", _PROBE)], False)
        if not whole.startswith(prompt):
            raise ConfigError(
                [
                    "prompt_template: the chat template's prompt is not how it begins a "
                    "conversation with a reply, so a model would be asked with other tokens than "
                    "it was trained on; take another template or options."
                ]
            )
        _, probe, tail = whole[len(prompt) :].partition(_PROBE)
        if not probe or _PROBE in tail:
            raise ConfigError(
                [
                    "prompt_template: the chat template does not write an assistant's reply once, "
                    "as it is; take another template."
                ]
            )
        if not self.encoder.pattern.search(tail):
            shown = f"writes {tail!r}, which is no token of this base" if tail else "writes nothing"
            raise ConfigError(
                [
                    f"prompt_template: after a reply the chat template {shown}, so a model would "
                    "not learn where to stop; take a template that ends a turn with a control "
                    "token of the base (zephyr ends it with EOS)."
                ]
            )
        return tail

    @cached_property
    def _to_end(self) -> str:
        """The tail up to its first control token."""
        match = self.encoder.pattern.search(self._tail)
        assert match is not None  # else `_tail` has raised
        return self._tail[: match.end()]

    @cached_property
    def _end_of_turn(self) -> str:
        match = self.encoder.pattern.search(self._tail)
        assert match is not None
        return match.group()


def renderer_of(tokenizer: Any, template: AnyTemplate) -> Renderer:
    """The renderer of that template."""
    if isinstance(template, ChatTemplate):
        return ChatRenderer(tokenizer, template)
    return TextRenderer(tokenizer, template)


def _mark(*texts: str) -> str:
    return next(mark for mark in _MARKS if not any(mark in text for text in texts))


def _unmarked(text: str, mark: str) -> list[Segment]:
    """The text without marks; a control token that held some is in several segments, and so is no
    control token any more."""
    return [Segment(part, from_row=False) for part in text.split(mark) if part]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__

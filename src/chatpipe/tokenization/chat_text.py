"""The text that a chat template (Jinja) writes of a conversation, and where its replies are.

Where a reply begins is known from the conversation before it, rendered with the generation prompt;
so what training has before a reply is what a model is asked with. Control tokens that a message
spells out are kept from the template by a mark within them, which is taken out again: they stay
text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.config.prompt_schema import OWN_CHAT_TEMPLATE, ChatTemplate
from chatpipe.config.template_text import Segment
from chatpipe.errors import ConfigError
from chatpipe.tokenization.conversation import Message
from chatpipe.tokenization.renderer import RenderError
from chatpipe.tokenization.template_errors import template_fault
from chatpipe.tokenization.text_encoder import THOUGHT_TAGS, TextEncoder

REWRITTEN = "a reply that the chat template does not write after its prompt"
THOUGHT_AFTER_CLOSED = "a thought in a reply whose prompt says that there is none"

_PROBE = "chatpipe-probe-7e1f"  # a text that no template holds
_QUESTION = ("user", "a")
# Today's date in a prompt would make other ids of the same row on another day.
_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
# Characters that Unicode has no letters for: one that a conversation does not hold is the mark.
_MARKS = (*map(chr, range(0xFDD0, 0xFDF0)), *map(chr, range(0xE000, 0xF900)))
# It writes a turn of any role, but the models of its family were trained on two.
_WITHOUT_SYSTEM = CHAT_TEMPLATES["gemma"]

_THOUGHT = re.compile(
    rf"(?P<open>\s*<(?P<tag>{THOUGHT_TAGS})>)(?P<thought>.*?)(?P<close></(?P=tag)>)", re.DOTALL
)
_OPENED = re.compile(rf"<(?P<tag>{THOUGHT_TAGS})>\s*\Z")

Written = tuple[str, str]  # role, and content with marks
Parts = list[list[Segment]]


@dataclass(frozen=True)
class Frame:
    """What the template writes around a reply.

    tail: all after it; to_end: the tail up to the control token that ends the turn, end_of_turn;
    opening: the beginning of a thought (<think> and a newline) that the prompt ends with and that
    the template writes in no reply; "" where there is none; lead: what it writes between the prompt
    and the reply's own text, which is scored as a part of the reply.
    """

    lead: str
    tail: str
    to_end: str
    end_of_turn: str
    opening: str


class ChatText:
    """What a chat template writes with one tokenizer."""

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        self.tokenizer = tokenizer
        self.template = template

    @cached_property
    def jinja(self) -> str:
        """The template's text, with a date of its own where it would write today's."""
        text = self.template.chat
        if text == OWN_CHAT_TEMPLATE:
            text = self._own_template()
        return _FIXED_DATE + text if "strftime_now" in text else text

    @property
    def is_own_text(self) -> bool:
        """Whether the template is Jinja text that a variant holds."""
        return self.template.chat not in (OWN_CHAT_TEMPLATE, *CHAT_TEMPLATES.values())

    @property
    def remedy(self) -> str:
        """What to do about a template that does not work."""
        if self.is_own_text:
            return "mend its text, or take other options"
        return "take another template or options"

    @cached_property
    def encoder(self) -> TextEncoder:
        """The tokenizer, with the control tokens of the template."""
        return TextEncoder(self.tokenizer, self.jinja)

    def texts(self, messages: Sequence[Message], is_strict: bool = True) -> list[Parts]:
        """The conversation as texts, each in parts: what stands before a reply, the reply to the
        end of its turn, what stands before the next, and so on; a last question ends the last text.
        No token reaches from one part into another.

        What stands before a reply is written once where the template goes on from the replies
        before, else it begins another text. Raises RenderError where a reply cannot be scored,
        unless `is_strict` is false: then another text begins after it.
        """
        messages = self._with_system(messages)
        mark = _mark(*(message.content for message in messages))
        marked = [(message.role, self._marked(message, mark)) for message in messages]
        texts: list[list[str]] = []
        before: str | None = None  # all up to the end of the last reply
        for end in (place + 1 for place, (role, _) in enumerate(marked) if role == "user"):
            prompt = self._text(marked[:end], asks=True)
            if before is not None and prompt.startswith(before):
                texts[-1].append(prompt[len(before) :])
            else:
                texts.append([prompt])
            if end == len(marked):
                break
            before = self._scored(marked[: end + 1], prompt, is_strict)
            if before is not None:
                texts[-1].append(before[len(prompt) :])
        return [[_unmarked(part, mark) for part in text] for text in texts]

    def _scored(self, messages: Sequence[Written], prompt: str, is_strict: bool) -> str | None:
        """The prompt with the reply, to the end of its turn; None where it cannot be scored."""
        try:
            return prompt + self._reply(messages, prompt)
        except RenderError:
            if is_strict:
                raise
            return None

    def _reply(self, messages: Sequence[Written], prompt: str) -> str:
        """The last reply, to the end of its turn."""
        whole, frame = self._text(messages, asks=False), self.frame
        if not whole.startswith(prompt) and frame.opening:
            return self._after_opening(messages, prompt)
        return self._within(whole, prompt, messages[-1][1]) + frame.to_end

    def _after_opening(self, messages: Sequence[Written], prompt: str) -> str:
        """The last reply after a prompt that has begun a thought: the rest of the reply's own, or
        none."""
        content, opening = messages[-1][1], self.frame.opening
        match = _THOUGHT.match(content)
        if match and match["tag"] in opening:
            answer = content[match.end() :].lstrip()
            gap = content[match.end() : len(content) - len(answer)]
            thought = match["thought"].lstrip() + match["close"] + gap
        else:
            answer = content
            thought = f"\n{opening.strip().replace('<', '</')}\n\n"
        whole = self._text([*messages[:-1], ("assistant", answer)], asks=False)
        reply = self._within(whole, prompt.removesuffix(opening), answer)
        return thought + reply + self.frame.to_end

    def _within(self, whole: str, prompt: str, content: str) -> str:
        """What is between the prompt and the tail."""
        tail = self.frame.tail
        if not whole.startswith(prompt) or not whole[len(prompt) :].endswith(tail):
            raise RenderError(THOUGHT_AFTER_CLOSED if _THOUGHT.match(content) else REWRITTEN)
        return whole[len(prompt) : len(whole) - len(tail)]

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, with a system text at the beginning of the first question where the
        template has no turn for it."""
        if messages[0].role != "system" or self.writes_system:
            return messages
        system, question, *others = messages
        joined = Message("user", f"{system.content}\n\n{question.content}")
        return [joined, *others]

    @cached_property
    def writes_system(self) -> bool:
        """Whether the template has a turn for a system text."""
        if self.jinja == _WITHOUT_SYSTEM:
            return False
        try:
            return _PROBE in self._text([("system", _PROBE), _QUESTION], asks=True)
        except RenderError:
            return False

    def _marked(self, message: Message, mark: str) -> str:
        """The message with the mark between all letters of each control token in it; but the tags
        of a thought that a reply begins with are the template's to find."""
        text = message.content
        match = _THOUGHT.match(text) if message.role == "assistant" else None
        if match is None:
            return self._with_mark(text, mark)
        thought, answer = (
            self._with_mark(t, mark) for t in (match["thought"], text[match.end() :])
        )
        return match["open"] + thought + match["close"] + answer

    def _with_mark(self, text: str, mark: str) -> str:
        return self.encoder.pattern.sub(lambda match: mark.join(match.group()), text)

    def _text(self, messages: Sequence[Written], asks: bool) -> str:
        """What the template writes; RenderError where it fails."""
        try:
            text: str = self.tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                chat_template=self.jinja,
                tokenize=False,
                add_generation_prompt=asks,
                **self.template.options,
            )
        except Exception as error:  # whatever a template raises, and what Jinja says of it
            raise RenderError(f"the chat template fails: {template_fault(error)}") from error
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
    def frame(self) -> Frame:
        """What stands around a reply. ConfigError where a reply has no place of its own or where
        its end is no token that generation can stop at."""
        try:
            prompt = self._text([_QUESTION], asks=True)
            whole = self._text([_QUESTION, ("assistant", _PROBE)], asks=False)
        except RenderError as fault:
            raise ConfigError([f"prompt_template: {fault}; {self.remedy}."]) from fault
        opened = None if whole.startswith(prompt) else _OPENED.search(prompt)
        opening = opened.group() if opened else ""
        prompt = prompt.removesuffix(opening)
        if not whole.startswith(prompt):
            raise ConfigError(
                [
                    "prompt_template: the chat template's prompt is not how it begins a "
                    "conversation with a reply, so a model would be asked with other tokens than "
                    f"it was trained on; {self.remedy}."
                ]
            )
        lead, probe, tail = whole[len(prompt) :].partition(_PROBE)
        if not probe:
            raise ConfigError(
                [
                    "prompt_template: the text of an assistant's reply (the key 'content' of its "
                    f"message) is not in what the chat template writes; {self.remedy}."
                ]
            )
        if _PROBE in tail:
            raise ConfigError(
                [
                    "prompt_template: the chat template writes an assistant's reply more than "
                    f"once; {self.remedy}."
                ]
            )
        if self.is_own_text and lead.strip() and prompt == self._text([_QUESTION], asks=False):
            raise ConfigError(
                [
                    f"prompt_template: {lead!r}, which the chat template writes before a reply, "
                    "would be scored as a part of it, because the template does not look at "
                    "add_generation_prompt; write it at the end where that is true: "
                    "{% if add_generation_prompt %}…{% endif %}."
                ]
            )
        match = self.encoder.pattern.search(tail)
        if match is None:
            shown = f"writes {tail!r}, which is no token of this base" if tail else "writes nothing"
            raise ConfigError(
                [
                    f"prompt_template: after a reply the chat template {shown}, so a model would "
                    "not learn where to stop; take a template that ends a turn with a control "
                    "token of the base (zephyr ends it with EOS)."
                ]
            )
        return Frame(lead, tail, tail[: match.end()], match.group(), opening)


def _mark(*texts: str) -> str:
    return next(mark for mark in _MARKS if not any(mark in text for text in texts))


def _unmarked(text: str, mark: str) -> list[Segment]:
    """The text without marks; a control token that held some is in several segments, and so is no
    control token any more."""
    return [Segment(part, from_row=False) for part in text.split(mark) if part]

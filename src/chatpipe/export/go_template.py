"""The template that an adapter was trained in, as Ollama's Modelfile has it (a Go template).

It is made of what stands around the messages, which is read off conversations that the Jinja text
writes; a template that writes anything else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatpipe.config.schema import Generation
from chatpipe.errors import ExportError

Messages = Sequence[dict[str, str]]
Write = Callable[[Messages], str]

_MARKS = ("chatpipe-first-4d1c", "chatpipe-reply-4d1c", "chatpipe-second-4d1c")
_SYSTEM = "chatpipe-system-4d1c"


@dataclass(frozen=True)
class Frame:
    """What stands around the messages of a conversation.

    opening: before a first question; before_system, after_system: around a system text before it;
    after_question: before a reply; after_reply: before the next question.
    """

    opening: str
    before_system: str
    after_system: str
    after_question: str
    after_reply: str

    def text(self, messages: Messages) -> str:
        """The conversation, up to the next reply."""
        written, is_first, system = "", True, ""
        for message in messages:
            role, content = message["role"], message["content"]
            if role == "system":
                system = content
            elif role == "user":
                if not is_first:
                    written += self.after_reply
                elif system:
                    written += self.before_system + system + self.after_system
                else:
                    written += self.opening
                written += content + self.after_question
                is_first = False
            else:
                written += content
        return written


def frame_of(write: Write, checked: Sequence[Messages]) -> Frame:
    """What stands around the messages; write: the text of a conversation up to the next reply.
    ExportError where the checked conversations are not made of it."""
    first, reply, second = _MARKS
    turns = [_message("user", first), _message("assistant", reply), _message("user", second)]
    whole = write(turns)
    opening, between, after_reply, end = _between(whole, _MARKS)
    before_system, after_system, _ = _between(
        write([_message("system", _SYSTEM), turns[0]]), (_SYSTEM, first)
    )
    frame = Frame(opening, before_system, after_system, between, after_reply)
    if end != between or any(frame.text(messages) != write(messages) for messages in checked):
        raise _refusal()
    return frame


def go_template(frame: Frame, bos: str) -> str:
    """The Go template; bos: the text of BOS where llama.cpp writes it by itself."""
    opening, before_system = (
        text.removeprefix(bos) for text in (frame.opening, frame.before_system)
    )
    if bos and opening == frame.opening:
        raise _refusal()
    question = (
        "{{- if not $first }}"
        + _literal(frame.after_reply)
        + "{{- else if $system }}"
        + _literal(before_system)
        + "{{- $system }}"
        + _literal(frame.after_system)
        + "{{- else }}"
        + _literal(opening)
        + "{{- end }}"
        "{{- $first = false }}{{- .Content }}" + _literal(frame.after_question)
    )
    return (
        '{{- $first := true }}{{- $system := "" }}'
        "{{- range .Messages }}"
        '{{- if eq .Role "system" }}{{- $system = .Content }}'
        '{{- else if eq .Role "user" }}'
        + question
        + '{{- else if eq .Role "assistant" }}{{- .Content }}'
        "{{- end }}{{- end }}"
    )


def modelfile(gguf: str, template: str, stops: Sequence[str], generation: Generation) -> str:
    """The Modelfile of a GGUF file beside it. Generation is the variant's, which Ollama would
    replace by a temperature and a penalty on repetition of its own."""
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{template}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += [
        f"PARAMETER temperature {generation.temperature:g}",
        f"PARAMETER top_p {generation.top_p:g}",
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    """Text that is written as it stands; Go reads the escapes of JSON."""
    return "{{- " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _between(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and after the marks, each of which is in the text once."""
    parts = []
    for mark in marks:
        before, present, text = text.partition(mark)
        if not present or mark in text:
            raise _refusal()
        parts.append(before)
    return [*parts, text]


def _refusal() -> ExportError:
    return ExportError(
        "the template cannot be written in Ollama's template language; export with `--to gguf`: "
        "llama.cpp's own server reads the template in the file."
    )

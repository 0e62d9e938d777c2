"""The template that an adapter was trained in, as the Jinja text that servers read.

A text template has no turns of its own. Its Jinja text writes what a `ChatSession` writes: every
question in the template without an input, after the token ids that a prompt begins with, and EOS
after every reply; a system text is in the first question alone.
"""

from __future__ import annotations

import json
from typing import Any

from chatpipe.config.prompt_schema import AnyTemplate, PromptTemplate
from chatpipe.config.template_text import SYSTEM, parse, placeholders
from chatpipe.errors import ExportError
from chatpipe.tokenization.chat_text import ChatText
from chatpipe.tokenization.text_encoder import start_ids

# Where the template has no turn for a system text, it begins the first question.
_JOINED_SYSTEM = (
    '{%- if messages[0]["role"] == "system" -%}{%- set messages = [{"role": "user", "content": '
    'messages[0]["content"] + "\\n\\n" + messages[1]["content"]}] + messages[2:] -%}{%- endif -%}'
)
_OPTIONS = "{%- set {name} = {value} -%}"


def jinja_text(tokenizer: Any, template: AnyTemplate) -> str:
    """The template as Jinja text, its options written into it."""
    if isinstance(template, PromptTemplate):
        return text_as_jinja(template, _start_text(tokenizer), tokenizer.eos_token)
    options = "".join(
        _OPTIONS.replace("{name}", name).replace("{value}", _literal(value))
        for name, value in template.options.items()
    )
    text = ChatText(tokenizer, template)
    return options + ("" if text.writes_system else _JOINED_SYSTEM) + text.jinja


def text_as_jinja(template: PromptTemplate, start: str, end: str) -> str:
    """A text template as Jinja text; start: what stands before a prompt; end: EOS."""
    text = template.without_input
    question = _literal(start) if start else ""
    pieces = [_output(question)] if question else []
    if SYSTEM not in placeholders(text):
        pieces.append("{%- if ns.system -%}" + _output('ns.system + "\\n\\n"') + "{%- endif -%}")
    for part in parse(text):
        pieces.append(_output(_VALUES[part.text] if part.is_placeholder else _literal(part.text)))
    return (
        '{%- set ns = namespace(system="") -%}'
        "{%- for message in messages -%}"
        '{%- if message["role"] == "system" -%}'
        '{%- set ns.system = message["content"] -%}'
        '{%- elif message["role"] == "user" -%}'
        + "".join(pieces)
        + '{%- set ns.system = "" -%}'
        + '{%- elif message["role"] == "assistant" -%}'
        + _output(f'message["content"] + {_literal(end)}')
        + "{%- endif -%}"
        "{%- endfor -%}"
    )


def _start_text(tokenizer: Any) -> str:
    """What the token ids that a prompt begins with are written as."""
    ids = start_ids(tokenizer)
    bos = tokenizer.bos_token_id
    if any(number != bos for number in ids):
        raise ExportError(
            f"the tokenizer puts the ids {ids} before every text, which no template can write; "
            "export the adapter with `--to adapter`."
        )
    return str(tokenizer.bos_token) * len(ids)


def _output(expression: str) -> str:
    return "{{- " + expression + " -}}"


def _literal(value: Any) -> str:
    """A value as Jinja reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


_VALUES = {"instruction": 'message["content"]', "input": '""', SYSTEM: "ns.system"}

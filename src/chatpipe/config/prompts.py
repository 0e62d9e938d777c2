"""Prompt templates and the panel: the words that a model is asked with."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml

from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.config.prompt_schema import (
    RESPONSE_MARKER,
    AnyTemplate,
    ChatTemplate,
    Prompt,
    PromptTemplate,
)
from chatpipe.config.template_text import SYSTEM, Segment, fill, placeholders

# The Alpaca project's prompts (Apache-2.0, github.com/tatsu-lab/stanford_alpaca): every model of
# the Alpaca family was trained on these exact words, so a fair comparison has to use them.
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n" + RESPONSE_MARKER + "\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n" + RESPONSE_MARKER + "\n"
)
# A short form: the constant text of the long one costs a third of a typical row's tokens.
_SHORT_WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n" + (
    RESPONSE_MARKER + "\n"
)
_SHORT_WITHOUT_INPUT = "### Instruction:\n{instruction}\n\n" + RESPONSE_MARKER + "\n"

TEMPLATES: dict[str, PromptTemplate] = {
    "alpaca": PromptTemplate(name="alpaca", with_input=_WITH_INPUT, without_input=_WITHOUT_INPUT),
    "paper": PromptTemplate(name="paper", with_input=_WITH_INPUT, without_input=_WITH_INPUT),
    "short": PromptTemplate(
        name="short", with_input=_SHORT_WITH_INPUT, without_input=_SHORT_WITHOUT_INPUT
    ),
}


# Templates of whole conversations; `chat` is the base's own.
CHATS: dict[str, ChatTemplate] = {
    "chat": ChatTemplate(),
    **{name: ChatTemplate(chat=name) for name in CHAT_TEMPLATES},
}


def template(name: str) -> PromptTemplate:
    """The template with placeholders of that name; ValueError names the known ones."""
    if name not in TEMPLATES:
        names = ", ".join(TEMPLATES)
        raise ValueError(f"no prompt template is named {name!r}; known are {names}")
    return TEMPLATES[name]


def any_template(name: str) -> AnyTemplate:
    """The template of that name, with placeholders or of chats; ValueError names the known ones."""
    templates: dict[str, AnyTemplate] = {**TEMPLATES, **CHATS}
    if name not in templates:
        raise ValueError(f"no prompt template is named {name!r}; known are {', '.join(templates)}")
    return templates[name]


def render(prompt_template: PromptTemplate, instruction: str, input_text: str) -> str:
    """The prompt up to where the response begins; braces in the row's text stay as they are."""
    return "".join(part.text for part in segments(prompt_template, instruction, input_text))


def segments(
    prompt_template: PromptTemplate, instruction: str, input_text: str, system: str = ""
) -> list[Segment]:
    """As `render`, in pieces that are the template's or the row's. A system text is where the
    template has `{system}`, else a paragraph before it."""
    text = prompt_template.with_input if input_text else prompt_template.without_input
    filled = fill(text, {"instruction": instruction, "input": input_text, SYSTEM: system})
    if system and SYSTEM not in placeholders(text):
        return [Segment(system + "\n\n", from_row=True), *filled]
    return filled


def raw_prompt(prompt: Prompt) -> str:
    """The prompt without any template, as the paper asked its base models: a text a line."""
    return "\n".join(prompt.texts())


@cache
def default_panel() -> tuple[Prompt, ...]:
    """The packaged panel.yaml: the paper's three prompts."""
    text = files("chatpipe.config").joinpath("panel.yaml").read_text("utf-8")
    return tuple(Prompt.model_validate(item) for item in yaml.safe_load(text))

"""A prompt template and a prompt of the panel, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from chatpipe.config.base import Name, Section
from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.config.jinja_text import syntax_fault
from chatpipe.config.template_text import PLACEHOLDERS, faults_of, placeholders

RESPONSE_MARKER = "### Response:"
OWN_CHAT_TEMPLATE = "base"
# Arguments of transformers' `apply_chat_template` that are no options of a template.
_RESERVED_OPTIONS = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template"),
        *("add_generation_prompt", "continue_final_message", "tokenize", "tokenizer_kwargs"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "sanitize_control_tokens"),
    }
)


class PromptTemplate(Section):
    """Prompt texts with and without an input; the response begins right after either of them."""

    name: str = "alpaca"
    with_input: str
    without_input: str

    @model_validator(mode="after")
    def _has_placeholders(self) -> PromptTemplate:
        needed = {"with_input": PLACEHOLDERS, "without_input": PLACEHOLDERS[:1]}
        faults = []
        for key, names in needed.items():
            text = getattr(self, key)
            present = placeholders(text)
            lacking = [f"{{{name}}}" for name in names if name not in present]
            lacking += [] if RESPONSE_MARKER in text else [RESPONSE_MARKER]
            faults += [f"{key} lacks {part!r}" for part in lacking]
            faults += [f"{key} {fault}" for fault in faults_of(text)]
        if faults:
            raise ValueError(
                f"{'; '.join(faults)} (without {RESPONSE_MARKER!r} nobody can tell where the "
                "response starts)"
                if any(RESPONSE_MARKER in fault for fault in faults)
                else "; ".join(faults)
            )
        return self


class ChatTemplate(Section):
    """A chat template: the base's own, or Jinja text as transformers' tokenizers have it."""

    name: str = "chat"
    chat: str = Field(
        OWN_CHAT_TEMPLATE, min_length=1, description="base: the base's own; a known name; or Jinja"
    )
    options: dict[str, bool | int | float | str] = Field(
        {}, description="variables of the template, such as enable_thinking"
    )

    @model_validator(mode="before")
    @classmethod
    def _text_of_a_known_name(cls, value: Any) -> Any:
        """A known name becomes its text, which is what a key depends on."""
        name = value.get("chat") if isinstance(value, Mapping) else None
        if isinstance(name, str) and name in CHAT_TEMPLATES:
            return {"name": name, **value, "chat": CHAT_TEMPLATES[name]}
        return value

    @field_validator("chat")
    @classmethod
    def _is_jinja(cls, value: str) -> str:
        if value != OWN_CHAT_TEMPLATE and "{{" not in value and "{%" not in value:
            choices = ", ".join((OWN_CHAT_TEMPLATE, *CHAT_TEMPLATES))
            raise ValueError(
                f"no chat template has this name; write Jinja text or one of {choices}"
            )
        if fault := syntax_fault(value):
            raise ValueError(fault)
        return value

    @field_validator("options")
    @classmethod
    def _no_reserved_option(cls, value: dict[str, Any]) -> dict[str, Any]:
        reserved = sorted(_RESERVED_OPTIONS & set(value))
        if reserved:
            raise ValueError(f"{', '.join(reserved)} is set by chatpipe; take it out")
        return value


def _form_of(value: Any) -> str:
    keys = set(value) if isinstance(value, Mapping) else set()
    is_chat = isinstance(value, ChatTemplate) or keys & {"chat", "options"}
    return "union[chat]" if is_chat else "union[texts]"


# Texts with placeholders, or a chat template. The tags are such as `validation` leaves out of keys.
AnyTemplate = Annotated[
    Annotated[PromptTemplate, Tag("union[texts]")] | Annotated[ChatTemplate, Tag("union[chat]")],
    Discriminator(_form_of),
]


class PromptTurn(Section):
    """An earlier turn of a conversation that the panel goes on with."""

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1, pattern=r"\S")


class Prompt(Section):
    """One question of the panel, with what stands before it."""

    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset({"system", "history"})

    id: Name
    instruction: str = Field(min_length=1, pattern=r"\S")
    input: str = ""
    system: str | None = Field(None, pattern=r"\S", description="text before the conversation")
    history: tuple[PromptTurn, ...] = Field((), description="earlier turns, oldest first")

    @field_validator("history")
    @classmethod
    def _turns_alternate(cls, value: tuple[PromptTurn, ...]) -> tuple[PromptTurn, ...]:
        roles = [turn.role for turn in value]
        expected = ["user", "assistant"] * (len(roles) // 2)
        if roles != expected:
            raise ValueError(
                "user and assistant have to take turns, the user first and the assistant last, as "
                f"the instruction is the user's next turn; the roles are {', '.join(roles)}"
            )
        return value

    def texts(self) -> list[str]:
        """All texts in their order."""
        earlier = [turn.content for turn in self.history]
        return [text for text in (self.system, *earlier, self.instruction, self.input) if text]

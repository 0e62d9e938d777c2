"""A prompt template and a prompt of the panel, as settings."""

from __future__ import annotations

from pydantic import (
    Field,
    model_validator,
)

from chatpipe.config.base import Name, Section
from chatpipe.config.template_text import PLACEHOLDERS, faults_of, placeholders

RESPONSE_MARKER = "### Response:"


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


class Prompt(Section):
    """One question of the panel."""

    id: Name
    instruction: str = Field(min_length=1, pattern=r"\S")
    input: str = ""

"""Answers to the prompts of the panel."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chatpipe.report.schema.base import Contract, JsonScalar


class Turn(Contract):
    """An earlier turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class Answer(Contract):
    """One model's answer to one prompt of the panel, or of a held-out row of `dataset`; tokens:
    generated, EOS included.

    system, history: what stood before the instruction, where the prompt has that.
    asked: "template" is the training template, "raw" the bare text.
    stop: "eos" ended by itself, "length" was cut at the limit of tokens.
    settings: how it was generated, the seed included.
    """

    model: str
    prompt_id: str
    asked: Literal["template", "raw"]
    instruction: str
    input: str
    text: str
    tokens: int
    stop: Literal["eos", "length"]
    settings: dict[str, JsonScalar] = Field({})
    dataset: str | None = None
    system: str | None = None
    history: list[Turn] = Field([])

"""Rows → token ids and labels: what is scored, what is cut, and what is left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from chatpipe.config import PromptTemplate
from chatpipe.prompts import render

IGNORED = -100  # torch's cross-entropy leaves out this label
TOO_LONG = "longer than max_length"
RESPONSE_CUT_AWAY = "response cut away"

Labels = Literal["response", "all"]


@dataclass(frozen=True)
class TokenizedRow:
    """One example. `labels` is as long as `input_ids`: the token itself where it is scored,
    -100 where it is not. `index` is the row's place in its table."""

    input_ids: list[int]
    labels: list[int]
    index: int


@dataclass(frozen=True)
class Tokenized:
    """The rows that can be used, and how many were cut or left out, by reason."""

    rows: list[TokenizedRow]
    cut: int
    left_out: dict[str, int]

    @property
    def tokens(self) -> int:
        """All tokens of the rows that are used."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def scored_tokens(self) -> int:
        """The tokens whose label is not -100."""
        return sum(sum(label != IGNORED for label in row.labels) for row in self.rows)


@dataclass(frozen=True)
class Encoder:
    """How a row becomes tokens: BOS (where the tokenizer has one of its own), prompt, response,
    EOS."""

    tokenizer: Any
    template: PromptTemplate
    labels: Labels
    max_length: int
    too_long: Literal["drop", "cut_left", "cut_right"] = "drop"

    def encode(self, table: pa.Table) -> Tokenized:
        """Tokenize every row of a table with instruction, input and output.

        Prompt and response are tokenized apart, so that the boundary between them is exact
        whatever the tokenizer would merge across it.
        """
        columns = (table[name].to_pylist() for name in ("instruction", "input", "output"))
        instructions, inputs, outputs = columns
        prompts = self.prompt_ids(
            [render(self.template, *pair) for pair in zip(instructions, inputs, strict=True)]
        )
        responses = self._ids(outputs)
        rows: list[TokenizedRow] = []
        cut, left_out = 0, Counter[str]()
        for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            ids = prompt + response + [self.tokenizer.eos_token_id]
            first_scored = 0 if self.labels == "all" else len(prompt)
            labels = [IGNORED] * first_scored + ids[first_scored:]
            if len(ids) > self.max_length:
                if self.too_long == "drop":
                    left_out[TOO_LONG] += 1
                    continue
                kept = self._kept()
                ids, labels = ids[kept], labels[kept]
                if self._response_lost(len(prompt)):
                    left_out[RESPONSE_CUT_AWAY] += 1
                    continue
                cut += 1
            rows.append(TokenizedRow(ids, labels, index))
        return Tokenized(rows, cut, dict(left_out))

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts, with BOS in front where the model expects one."""
        start = [self.tokenizer.bos_token_id] if starts_with_bos(self.tokenizer) else []
        return [start + ids for ids in self._ids(prompts)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def _kept(self) -> slice:
        return (
            slice(-self.max_length, None)
            if self.too_long == "cut_left"
            else slice(0, self.max_length)
        )

    def _response_lost(self, prompt_length: int) -> bool:
        return self.too_long == "cut_right" and prompt_length >= self.max_length


def starts_with_bos(tokenizer: Any) -> bool:
    """Whether this tokenizer puts BOS in front by itself (LLaMA's does, SmolLM's does not)."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id

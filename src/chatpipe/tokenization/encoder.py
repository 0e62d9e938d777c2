"""Rows → token ids and labels: what is scored, what is cut, and what is left out and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.data.reading import batches
from chatpipe.errors import DataError
from chatpipe.tokenization.chat_renderer import renderer_of
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.renderer import Renderer
from chatpipe.tokenization.text_encoder import TextEncoder, start_ids
from chatpipe.tokenization.token_cache import TEXTS, Tables, TokenFile, digest_of, token_file

CONVERSATION = ("system", "history")
IGNORED = -100  # torch's cross-entropy leaves out this label
TOO_LONG = "longer than max_length"
RESPONSE_CUT_AWAY = "response cut away"

Labels = Literal["response", "all"]
AskedPrompt = str | Conversation  # a text, or what the template writes


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

    rows: Sequence[TokenizedRow]
    cut: int
    left_out: dict[str, int]
    control_rows: int  # whose text spells out a control token, which is text
    row_tokens: npt.NDArray[np.int64]  # (rows,)
    row_scored_tokens: npt.NDArray[np.int64]  # (rows,), a first token is never scored

    @property
    def tokens(self) -> int:
        """All tokens of the rows that are used."""
        return int(self.row_tokens.sum())

    @property
    def scored_tokens(self) -> int:
        """Those that the loss is taken over."""
        return int(self.row_scored_tokens.sum())


class MappedRows(Sequence[TokenizedRow]):
    """Rows whose tokens lie in a memory-mapped file: each is made when it is asked for, so two
    requests for one give two equal objects."""

    def __init__(self, encoder: Encoder, file: TokenFile, kept: npt.NDArray[np.int64]) -> None:
        self._encoder = encoder
        self._file = file
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, place: int) -> TokenizedRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[TokenizedRow]: ...
    def __getitem__(self, place: int | slice) -> TokenizedRow | list[TokenizedRow]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        index = int(self._kept[place])
        prompt, response = self._file[index]
        return self._encoder.row(prompt.tolist(), response.tolist(), index)


@dataclass(frozen=True)
class Encoder:
    """How a row becomes tokens: BOS (where the tokenizer has one of its own), prompt, response,
    EOS; of a chat template, what it writes, to the end of the reply's turn."""

    tokenizer: Any
    template: AnyTemplate
    labels: Labels
    max_length: int
    too_long: Literal["drop", "cut_left", "cut_right"] = "drop"

    def encode(self, table: pa.Table) -> Tokenized:
        """Tokenize every row of a table with instruction, input and output, all into memory.

        Prompt and response are tokenized apart, so that the boundary between them is exact
        whatever the tokenizer would merge across it.
        """
        _refuse_conversations(table)
        texts = table.select(TEXTS)
        encoded = self._encoded(lambda: [texts])
        return replace(encoded, rows=list(encoded.rows))

    def encode_file(self, path: Path) -> Tokenized:
        """As `encode`, a Parquet file of any size: its rows stay on the disk."""
        return self._encoded(lambda: _tables(path))

    def _encoded(self, tables: Tables) -> Tokenized:
        """The rows of `tables`, which are read once for their digest, and again to be encoded."""
        counter = _ControlRows(self.tokenizer)
        digest = digest_of(map(counter.seen, tables()))
        file = token_file(self.tokenizer, self.template, tables, digest)
        prompts, responses = file.lengths().T
        full = prompts + responses + len(self.renderer.end)
        long = full > self.max_length
        lost = prompts >= self.max_length
        if self.too_long == "drop":
            gone, reason = long, TOO_LONG
        else:
            gone, reason = long & lost & (self.too_long == "cut_right"), RESPONSE_CUT_AWAY
        used = np.minimum(full, self.max_length)
        # What is cut on the left is the prompt's, until nothing of it is left.
        ignored = prompts - (full - used) * (self.too_long == "cut_left")
        # A row's first token has nothing before it to be predicted from.
        scored = used - (1 if self.labels == "all" else np.maximum(ignored, 1))
        left_out = int(np.count_nonzero(gone))
        return Tokenized(
            rows=MappedRows(self, file, np.flatnonzero(~gone)),
            cut=int(np.count_nonzero(long & ~gone)),
            left_out={reason: left_out} if left_out else {},
            control_rows=counter.rows,
            row_tokens=used[~gone],
            row_scored_tokens=scored[~gone],
        )

    def row(self, prompt: list[int], response: list[int], index: int) -> TokenizedRow:
        """The example of those token ids, cut where it is too long."""
        ids = prompt + response + self.renderer.end
        first_scored = 0 if self.labels == "all" else len(prompt)
        labels = [IGNORED] * first_scored + ids[first_scored:]
        kept = (
            slice(-self.max_length, None)
            if self.too_long == "cut_left"
            else slice(0, self.max_length)
        )
        return TokenizedRow(ids[kept], labels[kept], index)

    def prompt_ids(self, prompts: Sequence[AskedPrompt]) -> list[list[int]]:
        """Token ids that a model goes on from, BOS among them where it expects one. A text is
        asked as it is; a conversation is written by the template."""
        conversations = [p for p in prompts if isinstance(p, Conversation)]
        texts = [p for p in prompts if isinstance(p, str)]
        rendered = iter(self.renderer.prompts(conversations))
        plain = iter(self.renderer.encoder.texts(texts))
        start = start_ids(self.tokenizer) if texts else []
        return [
            start + next(plain) if isinstance(prompt, str) else next(rendered) for prompt in prompts
        ]

    @cached_property
    def renderer(self) -> Renderer:
        """Of the tokenizer and the template."""
        return renderer_of(self.tokenizer, self.template)


class _ControlRows:
    """Counts the rows whose text spells out a control token of the tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.rows = 0
        self._encoder = TextEncoder(tokenizer)

    def seen(self, table: pa.Table) -> pa.Table:
        """The table, whose rows are counted."""
        columns = [self._encoder.holds_control(table[name]) for name in TEXTS]
        any_of = pc.or_(pc.or_(columns[0], columns[1]), columns[2])
        self.rows += int(pc.sum(any_of).as_py() or 0)
        return table


def _tables(path: Path) -> Iterator[pa.Table]:
    names = pq.read_schema(path).names
    columns = [*TEXTS, *(name for name in CONVERSATION if name in names)]
    for batch in batches(path, columns):
        table = pa.Table.from_batches([batch])
        _refuse_conversations(table)
        yield table.select(TEXTS)


def _refuse_conversations(table: pa.Table) -> None:
    """DataError for rows whose system text or earlier turns would not be in their prompt."""
    for name in CONVERSATION:
        if name in table.column_names and table[name].null_count < table.num_rows:
            raise DataError(
                f"rows have a {name}, which training does not read yet; write turns: first, or "
                f"leave the {name} out."
            )

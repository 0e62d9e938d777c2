"""Rows → token ids and labels: what is scored, what is cut, and what is left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.data.parquet_rows import batches
from chatpipe.tokenization.chat_renderer import renderer_of
from chatpipe.tokenization.control_rows import ControlRows
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.renderer import Renderer
from chatpipe.tokenization.text_encoder import start_ids
from chatpipe.tokenization.token_cache import (
    TEXTS,
    TURNS,
    Tables,
    TokenRequest,
    digest_of,
    token_file,
)
from chatpipe.tokenization.token_rows import TokenFile
from chatpipe.tokenization.tokenized import IGNORED, RowExamples, Tokenized, TokenizedRow

__all__ = ["IGNORED", "Encoder", "Tokenized", "TokenizedRow"]

TOO_LONG = "longer than max_length"
RESPONSE_CUT_AWAY = "response cut away"
OTHER_FAULTS = "that the template cannot write, for other reasons"
MOST_FAULTS = 5  # reasons that are counted by themselves

Labels = Literal["every_reply", "last", "all"]
TooLong = Literal["drop", "cut_left", "cut_right", "cut_turns"]
AskedPrompt = str | Conversation  # a text, or what the template writes
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Encoder:
    """How a conversation becomes tokens: with a text template BOS (where the tokenizer has one of
    its own), prompt, response, EOS for every turn; with a chat template, what it writes, to the end
    of the last reply's turn.

    labels: which tokens are scored, those of every reply, of the last one, or all.
    """

    tokenizer: Any
    template: AnyTemplate
    labels: Labels
    max_length: int
    too_long: TooLong = "drop"

    def encode(self, table: pa.Table) -> Tokenized:
        """Tokenize every row of a table with instruction, input, output, and system and history
        where it has them, all into memory.

        Prompt and response are tokenized apart, so that the boundary between them is exact
        whatever the tokenizer would merge across it.
        """
        texts = table.select(_used(table.column_names))
        return self._encoded(lambda: [texts]).in_memory()

    def encode_file(self, path: Path) -> Tokenized:
        """As `encode`, a Parquet file of any size: its rows stay on the disk."""
        return self._encoded(lambda: _tables(path))

    def _encoded(self, tables: Tables) -> Tokenized:
        """The rows of `tables`, which are read once for their digest, and again to be encoded."""
        counter = ControlRows(self.renderer.encoder)
        digest = digest_of(map(counter.counted, tables()))
        most = self.max_length if self.too_long == "cut_turns" else None
        file = token_file(TokenRequest(self.tokenizer, self.template, most), tables, digest)
        cuts = _Cuts(file, self.labels, self.max_length, self.too_long)
        left_out = _most_common(file.faults)
        if cuts.lost_rows:
            left_out[cuts.reason] = cuts.lost_rows
        kept = np.flatnonzero(cuts.kept)
        return Tokenized(
            examples=MappedExamples(self, file, kept),
            example_rows=file.example_rows[kept],
            cut=cuts.cut_rows,
            left_out=left_out,
            control_rows=counter.rows,
            example_tokens=cuts.used[kept],
            example_scored_tokens=cuts.scored[kept],
            example_scored_replies=cuts.replies[kept],
        )

    def example(self, ids: list[int], replies: Sequence[tuple[int, int]]) -> tuple[list[int], ...]:
        """Ids and labels of an example, cut where it is too long; replies: where they are."""
        if self.labels == "all":
            labels = list(ids)
        else:
            labels = [IGNORED] * len(ids)
            for begin, end in replies[-1:] if self.labels == "last" else replies:
                labels[begin:end] = ids[begin:end]
        kept = (
            slice(-self.max_length, None)
            if self.too_long == "cut_left"
            else slice(0, self.max_length)
        )
        return ids[kept], labels[kept]

    def prompt_ids(self, prompts: Sequence[AskedPrompt]) -> list[list[int]]:
        """Token ids that a model goes on from, BOS among them where it expects one. A text is
        asked as it is; a conversation is written by the template."""
        conversations = [p for p in prompts if isinstance(p, Conversation)]
        texts = [p for p in prompts if isinstance(p, str)]
        rendered = iter(self.renderer.prompts(conversations) if conversations else ())
        plain = iter(self.renderer.encoder.texts(texts))
        start = start_ids(self.tokenizer) if texts else []
        return [
            start + next(plain) if isinstance(prompt, str) else next(rendered) for prompt in prompts
        ]

    @cached_property
    def renderer(self) -> Renderer:
        """Of the tokenizer and the template."""
        return renderer_of(self.tokenizer, self.template)


class MappedExamples(RowExamples):
    """Examples whose tokens lie in a memory-mapped file: each is made when it is asked for, so two
    requests for one give two equal objects."""

    def __init__(self, encoder: Encoder, file: TokenFile, kept: Counts) -> None:
        self._encoder = encoder
        self._file = file
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    def example(self, place: int) -> TokenizedRow:
        number = int(self._kept[place])
        file = self._file
        ids, labels = self._encoder.example(file.ids(number).tolist(), file.replies(number))
        return TokenizedRow(ids, labels, int(file.example_rows[number]))


class _Cuts:
    """What is left of examples that may have `most` tokens. Each array (examples,): kept; used, the
    tokens; scored, those of them that the loss is taken over (a first token has nothing before it
    to be predicted from); replies, those of which a token is scored."""

    def __init__(self, file: TokenFile, labels: Labels, most: int, too_long: TooLong) -> None:
        examples, rows = len(file.lengths), file.example_rows
        self.used: Counts = np.minimum(file.lengths, most)
        long = file.lengths > most
        # What is cut on the left comes first: it is the prompt's, until nothing of it is left.
        gone = file.lengths - self.used if too_long == "cut_left" else np.zeros_like(self.used)
        of = file.reply_examples
        begins = np.maximum(file.reply_begins - gone[of], 1)
        ends = np.minimum(file.reply_ends - gone[of], self.used[of])
        replies = np.maximum(ends - begins, 0)
        if labels == "last":
            replies = np.where(np.append(of[1:] != of[:-1], True)[: len(of)], replies, 0)
        scored = np.bincount(of, replies, examples).astype(np.int64)
        self.replies: Counts = np.bincount(of, replies > 0, examples).astype(np.int64)
        candidates = np.ones(examples, np.bool_) if labels == "every_reply" else file.is_last
        if too_long in ("drop", "cut_turns"):
            self.reason = TOO_LONG
            lost_rows = np.zeros(len(file), np.bool_)
            lost_rows[rows[long & candidates]] = True
            self.kept: Mask = candidates & ~lost_rows[rows]
        else:
            self.reason = RESPONSE_CUT_AWAY
            self.kept = candidates & ((scored > 0) | ~long)
        self.scored: Counts = self.used - 1 if labels == "all" else scored
        self.lost_rows = len(np.unique(rows[candidates])) - len(np.unique(rows[self.kept]))
        is_cut = long | (file.cut_turns[rows] > 0)
        self.cut_rows = len(np.unique(rows[self.kept & is_cut]))


def _most_common(faults: Counter[str]) -> dict[str, int]:
    """Rows by reason; those of rare reasons together."""
    counted = dict(faults.most_common(MOST_FAULTS))
    others = faults.total() - sum(counted.values())
    return counted | ({OTHER_FAULTS: others} if others else {})


def _used(columns: Sequence[str]) -> list[str]:
    return [*TEXTS, *(name for name in TURNS if name in columns)]


def _tables(path: Path) -> Iterator[pa.Table]:
    for batch in batches(path, _used(pq.read_schema(path).names)):
        yield pa.Table.from_batches([batch])

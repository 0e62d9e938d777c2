"""Rows as examples of token ids: what training and scoring read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

IGNORED = -100  # torch's cross-entropy leaves out this label

Counts = npt.NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class TokenizedRow:
    """One example of a row, of which most have one. `labels` is as long as `input_ids`: the token
    itself where it is scored, -100 where it is not. `index` is the row's place in its table."""

    input_ids: list[int]
    labels: list[int]
    index: int


class RowExamples(Sequence[TokenizedRow]):
    """Examples that are made when they are asked for."""

    @abstractmethod
    def example(self, place: int) -> TokenizedRow:
        """The example at that place."""

    @overload
    def __getitem__(self, place: int) -> TokenizedRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[TokenizedRow]: ...
    def __getitem__(self, place: int | slice) -> TokenizedRow | list[TokenizedRow]:
        if isinstance(place, slice):
            return [self.example(i) for i in range(*place.indices(len(self)))]
        return self.example(range(len(self))[place])


@dataclass(frozen=True)
class Tokenized:
    """The examples of the rows that can be used, row by row, and how many rows were cut or left
    out, by reason. With E examples of R rows:

    example_rows: (E,), the row of each, in ascending order; example_tokens, example_scored_tokens:
    (E,), where a first token is never scored; example_scored_replies: (E,), the replies of which a
    token is scored; control_rows: rows whose text spells out a control
    token, which is text.
    """

    examples: Sequence[TokenizedRow]
    example_rows: Counts
    cut: int
    left_out: dict[str, int]
    control_rows: int
    example_tokens: Counts
    example_scored_tokens: Counts
    example_scored_replies: Counts

    @property
    def row_count(self) -> int:
        """The rows that are used."""
        return len(self._starts)

    @property
    def tokens(self) -> int:
        """All tokens of the rows that are used."""
        return int(self.example_tokens.sum())

    @property
    def scored_tokens(self) -> int:
        """Those that the loss is taken over."""
        return int(self.example_scored_tokens.sum())

    @property
    def scored_replies(self) -> int:
        """The replies that the loss is taken over, as far as they are not cut off."""
        return int(self.example_scored_replies.sum())

    @property
    def longest(self) -> int:
        """The tokens of the longest example."""
        return int(self.example_tokens.max())

    @cached_property
    def row_tokens(self) -> Counts:
        """(R,), of all examples of a row together."""
        return self.by_row_sum(self.example_tokens)

    @cached_property
    def row_scored_tokens(self) -> Counts:
        """(R,), as row_tokens."""
        return self.by_row_sum(self.example_scored_tokens)

    @property
    def row_indices(self) -> Counts:
        """(R,), the place of each row in its table."""
        return self.example_rows[self._starts]

    def by_row(self) -> Sequence[list[TokenizedRow]]:
        """The examples of every row, (R,) lists."""
        return _ByRow(self.examples, np.append(self._starts, len(self.example_rows)))

    def in_memory(self) -> Tokenized:
        """The same, of which no example is made again."""
        return replace(self, examples=list(self.examples))

    @cached_property
    def _starts(self) -> Counts:
        """(R,), the first example of every row."""
        return np.unique(self.example_rows, return_index=True)[1].astype(np.int64)

    def by_row_sum(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """(E,) → (R,), summed over the examples of a row."""
        return np.add.reduceat(values, self._starts) if len(values) else values


class _ByRow(Sequence[list[TokenizedRow]]):
    def __init__(self, examples: Sequence[TokenizedRow], bounds: Counts) -> None:
        self._examples = examples
        self._bounds = bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, place: int) -> list[TokenizedRow]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[TokenizedRow]]: ...
    def __getitem__(self, place: int | slice) -> list[TokenizedRow] | list[list[TokenizedRow]]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        row = range(len(self))[place]
        return list(self._examples[self._bounds[row] : self._bounds[row + 1]])

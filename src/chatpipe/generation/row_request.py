"""What is asked of one row of a running batch; it goes from one process to another as it is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from chatpipe.config.schema import Generation

RowId = Hashable


@dataclass(frozen=True)
class RowRequest:
    """A prompt to be completed.

    Attributes:
        id: Names the row; unique in its batch.
        ids: The prompt's token ids, at least one.
        adapter: The name of its adapter; None for the base alone.
        stops: Token ids that end it.
        generation: Temperature, top_p, seed and the most new tokens.
        top_logprobs: How many of the likeliest tokens are returned with each token, whose own
            likelihood is then returned too; None for neither.
        written: Tokens of its reply that were written before; the row goes on after them.
    """

    id: RowId
    ids: list[int]
    adapter: str | None
    stops: frozenset[int]
    generation: Generation
    top_logprobs: int | None = None
    written: tuple[int, ...] = ()

    @property
    def ids_so_far(self) -> list[int]:
        """The prompt's token ids, and those written before."""
        return [*self.ids, *self.written]

    @property
    def most_tokens(self) -> int:
        """The row's tokens if it ends by its length."""
        return len(self.ids) + self.generation.max_new_tokens

"""Rows of a running batch: what is asked of one, its state while it runs, and its new tokens."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from chatpipe.config.schema import Generation
from chatpipe.generation.next_tokens import Likelihood, likelihood
from chatpipe.generation.sampling import Sampler

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


@dataclass(frozen=True)
class NewToken:
    """A row's next token. end: why the row has left the batch with it: at a token that ends it, or
    with its last allowed token; None where it goes on."""

    row: RowId
    token: int
    end: Literal["eos", "length"] | None
    likelihood: Likelihood | None


@dataclass
class Row:
    """A row while it runs. has_left: it is computed only because others beside it are."""

    request: RowRequest
    has_left: bool = False
    tokens: list[int] = field(init=False)  # of its reply
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        self.tokens = [*request.written]
        self.sampler = Sampler(request.generation, request.ids, len(request.written))

    @property
    def last(self) -> int:
        """The token that the next step reads."""
        return (self.tokens or self.request.ids)[-1]

    @property
    def continued(self) -> RowRequest:
        """The request that goes on where this row is."""
        return replace(self.request, written=tuple(self.tokens))

    def likelihood(self, token: int, logits: torch.Tensor) -> Likelihood | None:
        """Return that of a next token, of these logits (vocabulary,), if it is asked for."""
        most = self.request.top_logprobs
        return None if most is None else likelihood(logits, token, most)

    def accept(self, token: int, of_token: Likelihood | None) -> NewToken:
        """Take the row's next token."""
        self.tokens.append(token)
        request = self.request
        end: Literal["eos", "length"] | None = None
        if token in request.stops:
            end = "eos"
        elif len(self.tokens) == request.generation.max_new_tokens:
            end = "length"
        return NewToken(request.id, token, end, of_token)

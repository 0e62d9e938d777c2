"""Rows of a running batch: the state of one while it runs, and its new tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from chatpipe.generation.next_tokens import Likelihood, likelihood
from chatpipe.generation.row_request import RowId, RowRequest
from chatpipe.generation.sampling import Sampler


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

"""Rows that are computed together: left padded in one pass, or of one length as transformers'
`generate` has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from chatpipe.generation.capacity import AT_ONCE, CACHES
from chatpipe.generation.next_tokens import next_tokens
from chatpipe.generation.prefill import read_prompts
from chatpipe.generation.row_request import RowId, RowRequest
from chatpipe.generation.rows import NewToken, Row
from chatpipe.generation.slot_cache import SlotCache
from chatpipe.kernels.adapter_stacks import StackCache
from chatpipe.kernels.decoding import Decoder
from chatpipe.kernels.lora_inference import row_by_row
from chatpipe.kernels.packed_weights import packed_weights
from chatpipe.packing.padding import unwrapped


class Group(ABC):
    """Rows that are computed together.

    Attributes:
        rows: Those that are computed, in the order of `logits`; some of them may have left.
        last_tokens: (rows,), the token of each row that the next step reads; None where rows have
            changed since.
    """

    def __init__(self, model: Any, stacks: StackCache) -> None:
        self.model = model
        self.stacks = stacks
        self.device = next(model.parameters()).device
        self.rows: list[Row] = []
        self.last_tokens: torch.Tensor | None = None
        self._adapters_on: ExitStack | None = None

    @property
    def is_over(self) -> bool:
        """Whether all rows have left."""
        return all(row.has_left for row in self.rows)

    @property
    def adapters(self) -> list[str | None]:
        return [row.request.adapter for row in self.rows]

    @abstractmethod
    def join(self, requests: Sequence[RowRequest]) -> None:
        """Add rows; after an error none of them. release was called before."""

    @abstractmethod
    def leave(self, ids: Collection[RowId]) -> None:
        """Remove rows of these ids, which may be in other groups too."""

    @abstractmethod
    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (rows, vocabulary) after each row's last token, (rows,)."""

    def put_adapters_on(self, stack: ExitStack) -> None:
        """Have row n pass through its adapter, as long as the stack lasts."""
        stack.enter_context(packed_weights(self.model))
        stack.enter_context(row_by_row(self.model, self.adapters, self.stacks))

    def step(self) -> list[NewToken]:
        """Return a token for every row that has not left; after an error, none has taken one."""
        if self._adapters_on is None:
            with ExitStack() as stack:
                self.put_adapters_on(stack)
                self._adapters_on = stack.pop_all()
        with torch.no_grad():
            if self.last_tokens is None:
                last = [row.last for row in self.rows]
                self.last_tokens = torch.tensor(last, device=self.device)
            logits = self.logits(self.last_tokens)
            self.last_tokens = next_tokens(logits, [row.sampler for row in self.rows])
            tokens = self.last_tokens.tolist()  # all that the host waits for in a step
        new = [
            (row, token, row.likelihood(token, logits[number]))
            for number, (row, token) in enumerate(zip(self.rows, tokens, strict=True))
            if not row.has_left
        ]
        return [row.accept(token, of_token) for row, token, of_token in new]

    def release(self) -> None:
        """Take the adapters off the layers until the next step."""
        if self._adapters_on is not None:
            self._adapters_on.close()
            self._adapters_on = None


class PaddedGroup(Group):
    """Rows in one forward pass, left padded: row n is in slot n of a cache. Rows join at any time,
    and the last ones take the slots of those that leave.

    is_lasting: weights are arranged for as many rows as there are; otherwise for many, even where a
    few are left, because arranging them anew takes longer than their last tokens, and rounds them.
    """

    def __init__(
        self, model: Any, stacks: StackCache, decoder: Decoder | None, is_lasting: bool
    ) -> None:
        super().__init__(model, stacks)
        self.cache = SlotCache()
        self._arranged_for = None if is_lasting else AT_ONCE
        self._decoder = decoder
        self._lengths: torch.Tensor | None = None  # the cache's, on the device

    def join(self, requests: Sequence[RowRequest]) -> None:
        # One adapter's prompts next to each other: they are read in one pack.
        ordered = sorted(requests, key=lambda request: request.adapter or "")
        prompts = [request.ids_so_far for request in ordered]
        adapters = [request.adapter for request in ordered]
        layers = read_prompts(self.model, prompts, adapters, self.stacks)
        rows = [Row(request) for request in ordered]
        self.cache.join(layers, [len(ids) - 1 for ids in prompts])
        self.rows += rows
        self.last_tokens = self._lengths = None

    def leave(self, ids: Collection[RowId]) -> None:
        gone = [number for number, row in enumerate(self.rows) if row.request.id in ids]
        if gone:
            self.release()
            self.rows = [self.rows[number] for number in self.cache.leave(gone)]
            self.last_tokens = self._lengths = None

    def put_adapters_on(self, stack: ExitStack) -> None:
        if self._decoder is None:
            super().put_adapters_on(stack)
        else:
            self._decoder.use(self.adapters, self._arranged_for)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        cache = self.cache
        if self._lengths is None:
            self._lengths = torch.tensor(cache.lengths, device=self.device)
        lengths, self._lengths = self._lengths, self._lengths + 1
        if self._decoder is None:
            logits = self._model_logits(tokens, lengths)
        else:
            is_padded = min(cache.lengths) < cache.width
            seen = self._seen(lengths) if is_padded else None
            logits = self._decoder.logits(tokens, lengths, cache, seen)
        cache.advance()
        return logits

    def _seen(self, lengths: torch.Tensor) -> torch.Tensor:
        """(rows, width + 1): the columns of the cache that a row sees, its own token the last."""
        width = self.cache.width
        columns = torch.arange(width + 1, device=self.device)
        return columns >= width - lengths[:, None]

    def _model_logits(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        out = self.model(
            input_ids=tokens[:, None],
            attention_mask=self._seen(lengths).long(),
            position_ids=lengths[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]


class UnpaddedRows(Group):
    """Rows of one adapter and one length that joined together, computed as transformers' `generate`
    does: for any causal model. Those that have left are computed until all have."""

    def join(self, requests: Sequence[RowRequest]) -> None:
        self.rows = [Row(request) for request in requests]
        ids = [request.ids_so_far for request in requests]
        self._ids = torch.tensor(ids, device=self.device)
        self._kwargs: dict[str, Any] = {
            "attention_mask": torch.ones_like(self._ids),
            "use_cache": True,
        }
        self._is_first = True

    def leave(self, ids: Collection[RowId]) -> None:
        for row in self.rows:
            row.has_left |= row.request.id in ids

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        plain = unwrapped(self.model)
        if not self._is_first:
            self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        has_cache = any(self._kwargs.get(name) is not None for name in CACHES)
        inputs = plain.prepare_inputs_for_generation(
            self._ids,
            next_sequence_length=1 if has_cache else None,
            is_first_iteration=self._is_first,
            **self._kwargs,
        )
        self._is_first = False
        out = self.model(**inputs, return_dict=True)
        self._kwargs = plain._update_model_kwargs_for_generation(out, self._kwargs)
        return out.logits[:, -1]  # type: ignore[no-any-return]

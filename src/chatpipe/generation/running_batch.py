"""Continuous batching: rows join a batch while it runs, and leave it when they have ended.

How rows are laid out. A `RunningBatch` has groups, and one step gives every row of every group one
token. For most models there is one group, `_PaddedGroup`, which computes all rows in one forward
pass: its rows are in no order (a row that leaves is replaced by the last one), row n passes through
`adapters[n]` or through the base alone, and its keys and values are in slot n of a `SlotCache`,
left padded. Where different adapters cannot be mixed in one pass (experts), there is a group for
each adapter; where a model cannot be packed (recurrent layers), each row is an `_UnpaddedRow`,
computed alone as `generate` would.

Between two changes of its rows a padded group keeps its adapters on the layers
(`kernels.lora_inference.row_by_row`), so that a step is the forward pass and little more. Nothing
else may use the model until `release` was called; `join` does so itself. On CPUs a step of a model
of the Llama family is computed by `kernels.decoding` instead, which leaves the layers as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from chatpipe.config.schema import Generation
from chatpipe.generation import batch
from chatpipe.generation.next_tokens import Likelihood, Sampler, likelihood, next_tokens
from chatpipe.generation.prefill import read_prompts
from chatpipe.generation.slot_cache import SlotCache
from chatpipe.kernels.adapter_stacks import StackCache
from chatpipe.kernels.decoding import Decoder, decoder_of
from chatpipe.kernels.lora_inference import row_by_row
from chatpipe.kernels.packed_weights import packed_weights
from chatpipe.packing.padding import unwrapped

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
    """

    id: RowId
    ids: list[int]
    adapter: str | None
    stops: frozenset[int]
    generation: Generation
    top_logprobs: int | None = None

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


class RunningBatch:
    """Rows of one model, which is used by nothing else as long as the batch has rows."""

    def __init__(self, model: Any, most_rows: int = batch.AT_ONCE) -> None:
        self._model = model
        self._most_rows = most_rows
        self._is_packed = batch.reads_packed(model)
        self._mixes = batch.mixes_adapters(model)
        self._room_tokens = batch.room_tokens(model)
        self._adapters = {None, *getattr(model, "peft_config", ())}
        self._groups: dict[Hashable, _Group] = {}
        self._requests: dict[RowId, RowRequest] = {}
        self._stacks = StackCache()
        self._decoder = decoder_of(model) if self._is_packed else None

    def __len__(self) -> int:
        return len(self._requests)

    def has_room(self, request: RowRequest, beside: Sequence[RowRequest] = ()) -> bool:
        """Whether one more row may join now, with those `beside` it: there are few enough, and
        memory for all of them at their full length. An empty batch takes any row."""
        rows = len(self) + len(beside) + 1
        longest = max(r.most_tokens for r in (request, *beside, *self._requests.values()))
        return rows == 1 or (rows <= self._most_rows and rows * longest <= self._room_tokens)

    def join(self, requests: Sequence[RowRequest]) -> None:
        """Read the prompts and add them as rows, whose first tokens the next `step` returns.

        ValueError for an adapter that the model does not have, and for an id that is in the batch.
        After another error, such as memory that is not there, `leave` removes those that joined.
        """
        for request in requests:
            if request.adapter not in self._adapters:
                raise ValueError(f"the model has no adapter {request.adapter}.")
        ids = [request.id for request in requests]
        if len({*ids, *self._requests}) < len(ids) + len(self):
            raise ValueError("a row's id is in the batch already.")
        self.release()
        together: dict[Hashable, list[RowRequest]] = {}
        for request in requests:
            together.setdefault(self._group_key(request), []).append(request)
        for key, of_group in together.items():
            group = self._groups.get(key) or self._new_group()
            group.join(of_group)
            self._groups[key] = group
            self._requests |= {request.id: request for request in of_group}

    def step(self) -> list[NewToken]:
        """Return one token for every row; rows that end with theirs have left."""
        alone = len(self._groups) == 1
        new_tokens: list[NewToken] = []
        for group in list(self._groups.values()):
            new_tokens += group.step()
            if not alone:
                group.release()
        self.leave([new.row for new in new_tokens if new.end])
        return new_tokens

    def leave(self, ids: Collection[RowId]) -> None:
        """Remove rows; ids that are not in the batch are ignored."""
        gone = {row for row in ids if row in self._requests}
        if not gone:
            return
        for key, group in list(self._groups.items()):
            group.leave(gone)
            if not len(group):
                group.release()
                del self._groups[key]
        for row in gone:
            del self._requests[row]

    def clear(self) -> None:
        """Remove all rows."""
        self.release()
        self._groups, self._requests = {}, {}

    def release(self) -> None:
        """Take the rows' adapters off the model's layers until the next step."""
        for group in self._groups.values():
            group.release()

    def _group_key(self, request: RowRequest) -> Hashable:
        if not self._is_packed:
            return request.id
        return None if self._mixes else request.adapter

    def _new_group(self) -> _Group:
        if not self._is_packed:
            return _UnpaddedRow(self._model, self._stacks)
        return _PaddedGroup(self._model, self._stacks, self._decoder)


@dataclass
class _Row:
    """A row while it runs."""

    request: RowRequest
    last: int  # the token that the next step reads
    new_tokens: int = 0
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.request.generation, self.request.ids)

    def accept(self, token: int, logits: torch.Tensor) -> NewToken:
        """Take the row's next token, of these logits (vocabulary,)."""
        self.last = token
        self.new_tokens += 1
        request = self.request
        end: Literal["eos", "length"] | None = None
        if token in request.stops:
            end = "eos"
        elif self.new_tokens == request.generation.max_new_tokens:
            end = "length"
        most = request.top_logprobs
        return NewToken(
            request.id, token, end, None if most is None else likelihood(logits, token, most)
        )


class _Group(ABC):
    """Rows that are computed together."""

    def __init__(self, model: Any, stacks: StackCache) -> None:
        self.model = model
        self.stacks = stacks
        self.rows: list[_Row] = []
        self._adapters_on: ExitStack | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def adapters(self) -> list[str | None]:
        return [row.request.adapter for row in self.rows]

    @abstractmethod
    def join(self, requests: Sequence[RowRequest]) -> None:
        """Add rows; release was called before."""

    @abstractmethod
    def leave(self, ids: Collection[RowId]) -> None:
        """Remove rows of these ids, which may be in other groups too."""

    @abstractmethod
    def logits(self) -> torch.Tensor:
        """Return (rows, vocabulary) of the tokens after each row's last one."""

    def put_adapters_on(self, stack: ExitStack) -> None:
        """Have row n pass through its adapter, as long as the stack lasts."""
        stack.enter_context(packed_weights(self.model))
        stack.enter_context(row_by_row(self.model, self.adapters, self.stacks))

    def step(self) -> list[NewToken]:
        if self._adapters_on is None:
            with ExitStack() as stack:
                self.put_adapters_on(stack)
                self._adapters_on = stack.pop_all()
        with torch.no_grad():
            logits = self.logits()
            tokens = next_tokens(logits, [row.sampler for row in self.rows])
        return [
            row.accept(token, logits[number])
            for number, (row, token) in enumerate(zip(self.rows, tokens, strict=True))
        ]

    def release(self) -> None:
        if self._adapters_on is not None:
            self._adapters_on.close()
            self._adapters_on = None


class _PaddedGroup(_Group):
    """Rows in one forward pass, left padded."""

    def __init__(self, model: Any, stacks: StackCache, decoder: Decoder | None) -> None:
        super().__init__(model, stacks)
        self.cache = SlotCache()
        self._decoder = decoder
        self._device = next(model.parameters()).device

    def join(self, requests: Sequence[RowRequest]) -> None:
        # One adapter's prompts next to each other: they are read in one pack.
        ordered = sorted(requests, key=lambda request: request.adapter or "")
        prompts = [request.ids for request in ordered]
        adapters = [request.adapter for request in ordered]
        layers = read_prompts(self.model, prompts, adapters, self.stacks)
        self.cache.join(layers, [len(ids) - 1 for ids in prompts])
        self.rows += [_Row(request, request.ids[-1]) for request in ordered]

    def leave(self, ids: Collection[RowId]) -> None:
        gone = [number for number, row in enumerate(self.rows) if row.request.id in ids]
        if gone:
            self.release()
            self.rows = [self.rows[number] for number in self.cache.leave(gone)]

    def put_adapters_on(self, stack: ExitStack) -> None:
        if self._decoder is None:
            super().put_adapters_on(stack)
        else:
            self._decoder.use(self.adapters)

    def logits(self) -> torch.Tensor:
        cache = self.cache
        cache.make_room()
        tokens = torch.tensor([row.last for row in self.rows], device=self._device)
        lengths = torch.tensor(cache.lengths, device=self._device)
        columns = torch.arange(cache.width + 1, device=self._device)
        seen = columns >= cache.width - lengths[:, None]
        if self._decoder is None:
            logits = self._model_logits(tokens[:, None], lengths[:, None], seen)
        else:
            is_padded = min(cache.lengths) < cache.width
            logits = self._decoder.logits(tokens, lengths, cache, seen if is_padded else None)
        cache.advance()
        return logits

    def _model_logits(
        self, tokens: torch.Tensor, lengths: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        out = self.model(
            input_ids=tokens,
            attention_mask=seen.long(),
            position_ids=lengths,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]


class _UnpaddedRow(_Group):
    """One row, computed as transformers' `generate` does: for any causal model."""

    def join(self, requests: Sequence[RowRequest]) -> None:
        [request] = requests
        self.rows = [_Row(request, request.ids[-1])]
        device = next(self.model.parameters()).device
        self._ids = torch.tensor([request.ids], device=device)
        self._kwargs: dict[str, Any] = {
            "attention_mask": torch.ones_like(self._ids),
            "use_cache": True,
        }

    def leave(self, ids: Collection[RowId]) -> None:
        if self.rows and self.rows[0].request.id in ids:
            self.release()
            self.rows, self._kwargs = [], {}

    def logits(self) -> torch.Tensor:
        plain = unwrapped(self.model)
        [row] = self.rows
        is_first = not row.new_tokens
        if not is_first:
            self._ids = torch.cat([self._ids, self._ids.new_tensor([[row.last]])], dim=1)
        has_cache = any(self._kwargs.get(name) is not None for name in batch.CACHES)
        inputs = plain.prepare_inputs_for_generation(
            self._ids,
            next_sequence_length=1 if has_cache else None,
            is_first_iteration=is_first,
            **self._kwargs,
        )
        out = self.model(**inputs, return_dict=True)
        self._kwargs = plain._update_model_kwargs_for_generation(out, self._kwargs)
        return out.logits[:, -1]  # type: ignore[no-any-return]

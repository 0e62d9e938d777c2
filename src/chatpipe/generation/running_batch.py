"""Continuous batching: rows join a batch while it runs, and leave it when they have ended.

How rows are laid out. A `RunningBatch` has groups, and one step gives every row of every group one
token. For most models there is one group, a `PaddedGroup`, which computes all rows in one forward
pass: its rows are in no order (a row that leaves is replaced by the last one), row n passes through
`adapters[n]` or through the base alone, and its keys and values are in slot n of a `SlotCache`,
left padded. Where different adapters cannot be mixed in one pass (experts), there is a group for
each adapter; where a model cannot be packed (recurrent layers), rows of one adapter and length that
join together are `UnpaddedRows`, computed as `generate` would.

Between two changes of its rows a padded group keeps its adapters on the layers
(`kernels.lora_inference.row_by_row`), so that a step is the forward pass and little more. Nothing
else may use the model until `release` was called; `join` does so itself. On CPUs a step of a model
of the Llama family is computed by `kernels.decoding` instead, which leaves the layers as they are.

Where memory ends in a step, all rows are paused: their keys and values are freed, and with the next
step the older half of them goes on. Its prompts are read again with what was written after them, so
nothing is written twice and no token is lost. The others go on in their order as rows leave.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Sequence
from typing import Any

from chatpipe.generation.capacity import AT_ONCE, pass_key, reads_packed, room_tokens
from chatpipe.generation.row_groups import Group, PaddedGroup, UnpaddedRows
from chatpipe.generation.row_request import RowId, RowRequest
from chatpipe.generation.rows import NewToken
from chatpipe.kernels.adapter_stacks import StackCache
from chatpipe.kernels.decoding import decoder_of
from chatpipe.runtime.oom import is_out_of_memory, release_memory

LOG = logging.getLogger(__name__)


class RunningBatch:
    """Rows of one model, which is used by nothing else as long as the batch has rows.

    Attributes:
        most_rows: How many rows are computed at once at most; fewer once memory has ended.
    """

    def __init__(self, model: Any, most_rows: int = AT_ONCE, is_lasting: bool = True) -> None:
        """is_lasting: Rows come and go as long as a server or a conversation lasts, and not until
        some questions are answered."""
        self._model = model
        self.most_rows = most_rows
        self._is_lasting = is_lasting
        self._is_packed = reads_packed(model)
        self._pass_key = pass_key(model)
        self._room_tokens = room_tokens(model)
        self._adapters = {None, *getattr(model, "peft_config", ())}
        self._groups: dict[Hashable, Group] = {}
        self._requests: dict[RowId, RowRequest] = {}  # of all rows, in the order of joining
        self._paused: list[RowRequest] = []  # those of them that are not computed
        self._joins = 0
        self._stacks = StackCache()
        self._decoder = decoder_of(model) if self._is_packed else None

    def __len__(self) -> int:
        return len(self._requests)

    def has_room(self, request: RowRequest, beside: Sequence[RowRequest] = ()) -> bool:
        """Whether one more row may join now, with those `beside` it: there are few enough, and
        memory for all of them at their full length. An empty batch takes any row. Rows that are
        paused go first."""
        return not self._paused and self._fits(request, beside)

    def _fits(self, request: RowRequest, beside: Sequence[RowRequest]) -> bool:
        computed = [row.request for group in self._groups.values() for row in group.rows]
        together = [request, *beside, *computed]
        longest = max(each.most_tokens for each in together)
        rows = len(together)
        return rows == 1 or (rows <= self.most_rows and rows * longest <= self._room_tokens)

    def join(self, requests: Sequence[RowRequest]) -> None:
        """Read the prompts and add them as rows, whose first tokens the next `step` returns.

        After an error, such as memory that is not there, none has joined, and the rows that run are
        as they were. ValueError for an adapter that the model does not have, and for an id that is
        in the batch.
        """
        for request in requests:
            if request.adapter not in self._adapters:
                raise ValueError(f"the model has no adapter {request.adapter}.")
        ids = [request.id for request in requests]
        if len({*ids, *self._requests}) < len(ids) + len(self):
            raise ValueError("a row's id is in the batch already.")
        self._read(requests)
        self._requests |= {request.id: request for request in requests}

    def _read(self, requests: Sequence[RowRequest]) -> None:
        """Read texts and add them to groups; after an error none of them."""
        self.release()
        self._joins += 1
        together: dict[Hashable, list[RowRequest]] = {}
        for request in requests:
            together.setdefault(self._group_key(request), []).append(request)
        try:
            for key, of_group in together.items():
                group = self._groups.get(key) or self._new_group()
                group.join(of_group)
                self._groups[key] = group
        except BaseException:
            self._leave_groups({request.id for request in requests})
            raise

    def step(self) -> list[NewToken]:
        """Return one token for every row that is computed; rows that end with theirs have left.

        A step in which memory ends pauses rows, and returns tokens of some rows or of none; its
        error is raised where a single row has no room.
        """
        new_tokens: list[NewToken] = []
        lacking: RuntimeError | None = None
        try:
            self._resume()
            alone = len(self._groups) == 1
            for group in list(self._groups.values()):
                new_tokens += group.step()
                if not alone:
                    group.release()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Not handled here: its traceback holds what the step has computed.
            lacking = error.with_traceback(None)
        self.leave([new.row for new in new_tokens if new.end])
        if lacking is not None:
            self._pause(lacking)
        return new_tokens

    def _resume(self) -> None:
        """Have paused rows go on, as many as there is room for."""
        going_on: list[RowRequest] = []
        while self._paused and self._fits(self._paused[0], going_on):
            going_on.append(self._paused.pop(0))
        if going_on:
            self._read(going_on)

    def _pause(self, lacking: RuntimeError) -> None:
        """Pause all rows, and have no more than half as many go on; raise the error where there was
        one row."""
        computed = len(self) - len(self._paused)
        if computed <= 1:
            raise lacking
        for group in self._groups.values():
            rows = [row for row in group.rows if not row.has_left]
            self._requests |= {row.request.id: row.continued for row in rows}
        self._drop_groups()
        self._paused = list(self._requests.values())
        self.most_rows = computed // 2
        release_memory()
        LOG.warning(
            "out of memory with %d replies at once: from here on at most %d are written at once, "
            "and the others wait",
            computed,
            self.most_rows,
        )

    def leave(self, ids: Collection[RowId]) -> None:
        """Remove rows; ids that are not in the batch are ignored."""
        gone = {row for row in ids if row in self._requests}
        if not gone:
            return
        self._leave_groups(gone)
        self._paused = [request for request in self._paused if request.id not in gone]
        for row in gone:
            del self._requests[row]

    def _leave_groups(self, gone: Collection[RowId]) -> None:
        for key, group in list(self._groups.items()):
            group.leave(gone)
            if group.is_over:
                group.release()
                del self._groups[key]

    def clear(self) -> None:
        """Remove all rows."""
        self._drop_groups()
        self._requests, self._paused = {}, []

    def drop_computed(self) -> None:
        """Remove the rows that were computed, after an error; those that are paused go on with the
        next step."""
        self._drop_groups()
        self._requests = {request.id: request for request in self._paused}

    def _drop_groups(self) -> None:
        self.release()
        self._groups = {}

    def paused(self) -> set[RowId]:
        """Return the rows that are not computed, because memory has ended with them."""
        return {request.id for request in self._paused}

    def release(self) -> None:
        """Take the rows' adapters off the model's layers until the next step."""
        for group in self._groups.values():
            group.release()

    def _group_key(self, request: RowRequest) -> Hashable:
        # Without packs, only rows that join together are at the same place of a reply.
        return 0 if self._is_packed else self._joins, *self._pass_key(request)

    def _new_group(self) -> Group:
        if not self._is_packed:
            return UnpaddedRows(self._model, self._stacks)
        return PaddedGroup(self._model, self._stacks, self._decoder, self._is_lasting)

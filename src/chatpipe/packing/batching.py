"""How rows are put together for a model: packed where that is known to be right for it, else
padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch

from chatpipe.kernels.switch import fell_back, is_enabled, ran
from chatpipe.packing.model_check import packing_fault, sees_padding
from chatpipe.packing.packing import pack, packed_attention, packed_hits, packed_nats, packs
from chatpipe.packing.padding import (
    equal_length_groups,
    own_attention,
    pad,
    padded_groups,
    padded_hits,
    padded_nats,
    unwrapped,
)
from chatpipe.tokenization.encoder import TokenizedRow

Batch = dict[str, Any]
Rows = Sequence[TokenizedRow]


class Batching(NamedTuple):
    """groups: rows, most tokens at once, (most threads, most tokens read) → groups of rows;
    collate: a group → a batch, of which `counts` are the scored tokens of each row; nats: model and
    batch → (S,) −log p of every scored token in float32, row by row; hits: these, and (S,) whether
    each token is the most likely one; attention: the model's attention is the one that batches need
    while this lasts; run_in_threads: whether several batches may be computed at once, in
    threads."""

    groups: Callable[..., list[list[TokenizedRow]]]
    collate: Callable[[Rows], Batch]
    nats: Callable[[Any, Batch], torch.Tensor]
    hits: Callable[[Any, Batch], tuple[torch.Tensor, torch.Tensor]]
    attention: Callable[[Any], AbstractContextManager[None]]
    run_in_threads: bool

    def row_nats(
        self, model: Any, batch: Batch, meanwhile: Callable[[], None] | None = None
    ) -> list[float]:
        """Σ −log p of the scored tokens of each row, without gradients. meanwhile: called while a
        GPU computes, before its values are waited for."""
        with torch.no_grad():
            nats = self.nats(model, batch)
            if meanwhile:
                meanwhile()
            of_rows = torch.split(nats.cpu().double(), batch["counts"])
            return [float(of_one.sum()) for of_one in of_rows]

    def row_hits(
        self, model: Any, batch: Batch, meanwhile: Callable[[], None] | None = None
    ) -> list[tuple[float, bool]]:
        """As row_nats, each with whether all of the row's scored tokens are the most likely."""
        with torch.no_grad():
            nats, hits = self.hits(model, batch)
            if meanwhile:
                meanwhile()
            rows = (
                torch.split(part, batch["counts"]) for part in (nats.cpu().double(), hits.cpu())
            )
            return [
                (float(of_one.sum()), bool(hit.all())) for of_one, hit in zip(*rows, strict=True)
            ]


PACKED = Batching(packs, pack, packed_nats, packed_hits, packed_attention, True)
PADDED = Batching(padded_groups, pad, padded_nats, padded_hits, own_attention, False)
UNPADDED = PADDED._replace(groups=equal_length_groups)


def batching_for(model: Any) -> Batching:
    """PACKED; where packing is off or does not know the model, of which is warned, PADDED, or
    UNPADDED for a model that sees padding."""
    if is_enabled("packing"):
        fault = packing_fault(model)
        if fault is None:
            ran("packing")
            return PACKED
        fell_back("packing", f"{type(unwrapped(model)).__name__}: {fault}")
    return UNPADDED if sees_padding(model) else PADDED

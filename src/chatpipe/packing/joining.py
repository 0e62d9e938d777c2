"""Packed rows put behind one another into one, to be computed in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from chatpipe.kernels.cross_entropy import token_nats
from chatpipe.packing.attention import ForwardState, Layout
from chatpipe.packing.packing import Pack, packed_logits


def nats_of_each(model: Any, packs: Sequence[Pack]) -> list[torch.Tensor]:
    """−log p of every scored token of each pack, as `packed_nats`, from one pass for all."""
    joined = join_packs(packs)
    nats = token_nats(packed_logits(model, joined), joined["targets"])
    parts = torch.split(nats, [len(pack["targets"]) for pack in packs])
    return [
        part if pack["scored"] is None else part[pack["scored"]]
        for part, pack in zip(parts, packs, strict=True)
    ]


def join_packs(packs: Sequence[Pack]) -> Pack:
    """All examples of these packs, in one: as `packing.pack` makes it, but for `scored`, which
    stays each pack's own."""
    if len(packs) == 1:
        return packs[0]
    starts = _starts([packed_tokens(pack) for pack in packs])
    return {
        "input_ids": torch.cat([pack["input_ids"] for pack in packs], 1),
        "position_ids": torch.cat([pack["position_ids"] for pack in packs], 1),
        "layout": _joined([pack["layout"] for pack in packs], starts),
        "kept": torch.cat(
            [pack["kept"] + start for pack, start in zip(packs, starts, strict=True)]
        ),
        "targets": torch.cat([pack["targets"] for pack in packs]),
        "scored": None,
        "counts": [count for pack in packs for count in pack["counts"]],
    }


def packed_tokens(pack: Pack) -> int:
    """How many tokens of a pack are computed."""
    return int(pack["input_ids"].shape[1])


def _joined(layouts: Sequence[Layout], starts: Sequence[int]) -> Layout:
    lengths = [length for layout in layouts for length in layout["lengths"]]
    spans = [span for layout in layouts for span in layout["spans"]]
    read_starts = _starts([sum(layout["spans"]) for layout in layouts])
    return Layout(
        lengths=lengths,
        spans=spans,
        places=_places(layouts, starts),
        query_ends=_ends([layout["query_ends"] for layout in layouts], starts),
        key_ends=_ends([layout["key_ends"] for layout in layouts], read_starts),
        attended=ForwardState(),
    )


def _places(layouts: Sequence[Layout], starts: Sequence[int]) -> torch.Tensor | None:
    if all(layout["places"] is None for layout in layouts):
        return None
    places = []
    for layout, start in zip(layouts, starts, strict=True):
        own = layout["places"]
        if own is None:  # nothing is shared: all tokens in their order
            own = torch.arange(sum(layout["spans"]), device=layout["key_ends"].device)
        places.append(own + start)
    return torch.cat(places)


def _ends(ends: Sequence[torch.Tensor], starts: Sequence[int]) -> torch.Tensor:
    later = [own[1:] + start for own, start in zip(ends[1:], starts[1:], strict=True)]
    return torch.cat([ends[0], *later])


def _starts(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes[:-1])]

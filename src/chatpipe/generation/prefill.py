"""Reading the prompts of a batch: packed, so that what they begin with in common is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from chatpipe.kernels.adapter_stacks import StackCache
from chatpipe.kernels.lora_inference import example_by_example
from chatpipe.packing.packing import pack, packed_attention, packed_cache, packs, places_of_each
from chatpipe.packing.transfer import on_device
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow

PACK_TOKENS = 4096

Layer = tuple[torch.Tensor, ...]  # its keys and its values


def read_prompts(
    model: Any,
    prompts: Sequence[list[int]],
    adapters: Sequence[str | None],
    stacks: StackCache | None = None,
) -> list[Layer]:
    """In every layer keys and values (N, key heads, W - 1, size) of N prompts, padded on the left
    to W tokens, without each prompt's last token; no layer where no prompt has another. Padding is
    zeros, which the attention mask hides. Each prompt is read through its adapter, or by the
    base."""
    width = max(map(len, prompts)) - 1
    rows = [TokenizedRow(ids[:-1], [IGNORED] * (len(ids) - 1), n) for n, ids in enumerate(prompts)]
    device = next(model.parameters()).device
    cache_layers: list[Layer] = []
    with torch.no_grad(), packed_attention(model):
        for group in _packs(rows, adapters):
            models = [adapters[row.index] for row in group]
            packed = on_device(pack(group, models), device)
            with example_by_example(model, models, packed["layout"]["lengths"], stacks):
                layers = packed_cache(model, packed)
            cache_layers = cache_layers or [
                _padding(layer, len(prompts), width) for layer in layers
            ]
            for row, places in zip(group, places_of_each(packed["layout"]), strict=True):
                for whole, part in zip(cache_layers, layers, strict=True):
                    for padded, read in zip(whole, part, strict=True):
                        padded[row.index, :, width - len(places) :] = read[0, :, places]
            del layers  # the next pack's need the room
    return cache_layers


def _packs(
    rows: Sequence[TokenizedRow], adapters: Sequence[str | None]
) -> list[list[TokenizedRow]]:
    """What is read at once: rows that have tokens, those of one adapter next to each other, so that
    they share what they begin with, and as many adapters as there is room for."""
    of_adapters: dict[str | None, list[TokenizedRow]] = {}
    for row in rows:
        if row.input_ids:
            of_adapters.setdefault(adapters[row.index], []).append(row)
    groups: list[list[TokenizedRow]] = []
    for of_one in of_adapters.values():
        for group in packs(of_one, PACK_TOKENS):
            if groups and _tokens(groups[-1]) + _tokens(group) <= PACK_TOKENS:
                groups[-1] += group
            else:
                groups.append(group)
    return groups


def _tokens(rows: Sequence[TokenizedRow]) -> int:
    return sum(len(row.input_ids) for row in rows)


def _padding(layer: Layer, prompts: int, width: int) -> Layer:
    return tuple(part.new_zeros(prompts, part.shape[1], width, part.shape[3]) for part in layer)

"""Several examples in one row of tokens: none sees another, and a common beginning is shared.

Positions restart with every example, attention is computed example by example, and logits only
where the next token is scored: nothing is spent on padding, on other examples' tokens, or on
logits that no one reads. Examples that begin with the same tokens (a template's preamble, the turns
of one conversation) share them: a causal model makes the same of them in each, so the sharing
changes neither losses nor gradients (with dropout, they share its noise too).

What a model computes across tokens in other ways than by plain attention would see the other
examples: `packing_check.py` says which models these are, and `batching.py` pads their rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from chatpipe.errors import ModelError
from chatpipe.kernels.cross_entropy import token_nats
from chatpipe.packing.attention import ATTENTION, ForwardState, Layout
from chatpipe.packing.padding import unwrapped
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow

WORTH_SHARING = 1 / 8  # of a row's tokens

Pack = dict[str, Any]
Places = npt.NDArray[np.int64]


def pack(rows: Sequence[TokenizedRow], models: Sequence[str | None] | None = None) -> Pack:
    """One packed row; where `models` says which model (an adapter's name) reads each example, those
    of different models share nothing. With T tokens that are computed, and S scored ones, of which
    U differ in what they are or are predicted from:

    input_ids, position_ids: (1, T), each example without what it shares with the one before, and
    up to the last token that a scored one is predicted from; layout: where the examples are;
    kept: (U,), where the token before a scored one is; targets: (U,), the scored tokens; scored:
    (S,), the places of all among these, example by example, None where that is their order; counts:
    the scored tokens of each example. An example's first token is never scored: nothing of its
    own is before it.
    """
    ids = [_inputs(row) for row in rows]
    shared = [0, *(_shared(before, after) for before, after in pairwise(ids))]
    if models is not None:
        alike = [True, *(before == after for before, after in pairwise(models))]
        shared = [common if same else 0 for common, same in zip(shared, alike, strict=True)]
    spans = [len(of_one) for of_one in ids]
    lengths = [span - common for span, common in zip(spans, shared, strict=True)]
    paths = _paths(shared, lengths)
    labels = [np.asarray(row.labels[1 : span + 1]) for row, span in zip(rows, spans, strict=True)]
    scored = [of_one != IGNORED for of_one in labels]
    before = np.concatenate([path[: len(at)][at] for path, at in zip(paths, scored, strict=True)])
    scored_ids = np.concatenate([of_one[at] for of_one, at in zip(labels, scored, strict=True)])
    kept, targets, repeated = _distinct(before.astype(np.int64), scored_ids.astype(np.int64))
    return {
        "input_ids": _tensor([of_one[n:] for of_one, n in zip(ids, shared, strict=True)])[None],
        "position_ids": _tensor([np.arange(n, m) for n, m in zip(shared, spans, strict=True)])[
            None
        ],
        "layout": Layout(
            lengths=lengths,
            spans=spans,
            places=_tensor(paths) if any(shared) else None,
            query_ends=_ends(lengths),
            key_ends=_ends(spans),
            attended=ForwardState(),
        ),
        "kept": torch.from_numpy(kept),
        "targets": torch.from_numpy(targets),
        "scored": None if (np.diff(repeated) == 1).all() else _tensor([repeated]),
        "counts": [int(at.sum()) for at in scored],
    }


def _inputs(row: TokenizedRow) -> Places:
    """The tokens that scored ones are predicted from, so not the last one; all of them where
    none is scored, which are then read for their keys and values."""
    scored = np.flatnonzero(np.asarray(row.labels[1:]) != IGNORED)
    needed = int(scored[-1]) + 1 if len(scored) else None
    return np.asarray(row.input_ids)[:needed]


def _shared(before: Places, after: Places) -> int:
    """How many tokens both begin with; 0 where these are so few (a BOS) that the mask which then
    is needed costs more than they do."""
    most = min(len(before), len(after))
    different = np.flatnonzero(before[:most] != after[:most])
    common = int(different[0]) if len(different) else most
    return common if common >= WORTH_SHARING * len(after) else 0


def _paths(shared: Sequence[int], lengths: Sequence[int]) -> list[Places]:
    """Where each example's tokens are: those it shares are where the one before has them."""
    paths = [np.arange(0)]
    end = 0
    for common, length in zip(shared, lengths, strict=True):
        paths.append(np.concatenate([paths[-1][:common], np.arange(end, end + length)]))
        end += length
    return paths[1:]


def _distinct(before: Places, targets: Places) -> tuple[Places, Places, Places]:
    """Every pair of the two but once, and where each of them is among these."""
    pairs, indices = np.unique(before << 32 | targets, return_inverse=True)
    return pairs >> 32, pairs & 0xFFFFFFFF, indices


def _ends(sizes: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *sizes]).cumsum(0, dtype=torch.int32)


def _tensor(parts: Sequence[Places]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))


def packs(
    rows: Sequence[TokenizedRow], max_tokens: int, threads: int = 1, max_read: int | None = None
) -> list[list[TokenizedRow]]:
    """Group rows, those that begin alike next to each other.

    Of a group at most `max_tokens` tokens are computed, and at most `max_read` (default:
    `max_tokens`) if shared tokens are counted for each of their rows. A longer row is a group of
    its own. With several threads, each gets as many groups as the others, with about as many tokens
    to compute, where the rows allow it."""
    ordered = sorted(rows, key=lambda row: row.input_ids)
    ids = [np.asarray(row.input_ids) for row in ordered]
    shared = [0, *(_shared(before, after) for before, after in pairwise(ids))]
    lengths = [len(of_one) for of_one in ids]
    added = [length - common for length, common in zip(lengths, shared, strict=True)]

    read = max_tokens if max_read is None else max_read

    def filled(most: int) -> list[int]:
        return _filled(lengths, added, read, most)

    starts = filled(max_tokens)
    if threads > 1:
        count = threads * -(-len(starts) // threads)
        least = bisect_left(range(max_tokens), True, key=lambda most: len(filled(most)) <= count)
        starts = filled(least)
    return [ordered[start:end] for start, end in pairwise([*starts, len(ordered)])]


def _filled(
    lengths: Sequence[int], added: Sequence[int], max_read: int, max_computed: int
) -> list[int]:
    """Where each group starts, if every group takes as many rows as it may: all have `lengths`
    tokens, of which only those `added` to what it shares are computed of any but the first."""
    starts: list[int] = []
    read = computed = 0
    for place, (length, more) in enumerate(zip(lengths, added, strict=True)):
        read += length
        computed += more
        if not starts or read > max_read or computed > max_computed:
            starts.append(place)
            read = computed = length
    return starts


def packed_logits(model: Any, packed: Pack) -> torch.Tensor:
    """(U, vocabulary): the logits that predict the scored tokens. `model` attends as it does
    within `packed_attention`."""
    # Not [0], of which the gradient is a copy with zeros beneath.
    return _forward(model, packed, use_cache=False).logits.squeeze(0)  # type: ignore[no-any-return]


def packed_cache(model: Any, packed: Pack) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of every layer, each (1, key heads, T, size), as packed_logits computes
    them."""
    cache = DynamicCache()
    _forward(model, packed, use_cache=True, past_key_values=cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


def places_of_each(layout: Layout) -> list[torch.Tensor]:
    """Where in the packed row each example's tokens are (all of them, if none is scored)."""
    places = layout["places"]
    if places is None:
        places = torch.arange(sum(layout["spans"]), device=layout["key_ends"].device)
    return list(torch.split(places, layout["spans"]))


def _forward(model: Any, packed: Pack, **more: Any) -> Any:
    """The model's own output; ModelError where it computes across tokens but by attention."""
    attended: ForwardState = packed["layout"]["attended"]
    attended.layers = 0
    out = model(
        input_ids=packed["input_ids"],
        position_ids=packed["position_ids"],
        logits_to_keep=packed["kept"],
        layout=packed["layout"],
        **more,
    )
    plain = unwrapped(model)
    layers = getattr(plain.config.get_text_config(), "num_hidden_layers", None)
    if attended.layers != layers:
        others = f"only {attended.layers} of its {layers} layers attend"
        raise ModelError(others)
    return out


def packed_nats(model: Any, packed: Pack) -> torch.Tensor:
    """(S,) −log p of every scored token, in float32: bfloat16 has 3 digits, too few to sum."""
    nats = token_nats(packed_logits(model, packed), packed["targets"])
    return nats if packed["scored"] is None else nats[packed["scored"]]


def packed_hits(model: Any, packed: Pack) -> tuple[torch.Tensor, torch.Tensor]:
    """`packed_nats`, and (S,) whether each scored token is the most likely one."""
    logits = packed_logits(model, packed)
    hits = logits.argmax(-1) == packed["targets"]
    nats = token_nats(logits, packed["targets"])
    order = slice(None) if packed["scored"] is None else packed["scored"]
    return nats[order], hits[order]


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """While this lasts, the model's attention is that of packed rows."""
    plain = unwrapped(model)
    before = plain.config._attn_implementation
    plain.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        plain.set_attn_implementation(before)

"""Several examples in one row of tokens: none sees another, and a common beginning is shared.

Positions restart with every example, attention is computed example by example, and logits only
where the next token is scored: nothing is spent on padding, on other examples' tokens, or on
logits that no one reads. Examples that begin with the same tokens (a template's preamble, the turns
of one conversation) share them: a causal model makes the same of them in each, so the sharing
changes neither losses nor gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from chatpipe.cross_entropy import token_nats
from chatpipe.tokenization import IGNORED, TokenizedRow

ATTENTION = "chatpipe_packed"

Pack = dict[str, Any]


class Layout(TypedDict):
    """Where the N examples of a packed row are. Of T tokens that are computed for K tokens of
    examples:

    lengths: N, the tokens of each that are computed; spans: N, all tokens of each; places: (K,),
    where in the packed row each example's tokens are, None where nothing is shared; query_ends,
    key_ends: (N + 1,), the sums of lengths and of spans up to each example, as kernels want them.
    """

    lengths: list[int]
    spans: list[int]
    places: torch.Tensor | None
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    causal: dict[int | None, list[dict[str, Any]]]  # by window: what the first layer has made


Places = npt.NDArray[np.int64]


def pack(rows: Sequence[TokenizedRow]) -> Pack:
    """One packed row. With T tokens that are computed, of which S are scored:

    input_ids, position_ids: (1, T), each example without what it shares with the one before;
    layout: where the examples are; kept: (S,), where the token before a scored one is;
    targets: (S,), the scored tokens; counts: the scored tokens of each example. An example's
    first token is never scored: nothing of its own is before it.
    """
    ids = [np.asarray(row.input_ids) for row in rows]
    shared = [0, *(_common(before, after) for before, after in pairwise(ids))]
    spans = [len(of_one) for of_one in ids]
    lengths = [span - common for span, common in zip(spans, shared, strict=True)]
    paths = _paths(shared, lengths)
    labels = [np.asarray(row.labels[1:]) for row in rows]
    scored = [of_one != IGNORED for of_one in labels]
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
            causal={},
        ),
        "kept": _tensor([path[:-1][at] for path, at in zip(paths, scored, strict=True)]),
        "targets": _tensor([of_one[at] for of_one, at in zip(labels, scored, strict=True)]),
        "counts": [int(at.sum()) for at in scored],
    }


def _common(before: Places, after: Places) -> int:
    """How many tokens both begin with."""
    most = min(len(before), len(after))
    different = np.flatnonzero(before[:most] != after[:most])
    return int(different[0]) if len(different) else most


def _paths(shared: Sequence[int], lengths: Sequence[int]) -> list[Places]:
    """Where each example's tokens are: those it shares are where the one before has them."""
    paths = [np.arange(0)]
    end = 0
    for common, length in zip(shared, lengths, strict=True):
        paths.append(np.concatenate([paths[-1][:common], np.arange(end, end + length)]))
        end += length
    return paths[1:]


def _ends(sizes: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *sizes]).cumsum(0, dtype=torch.int32)


def _tensor(parts: Sequence[Places]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))


def packs(rows: Sequence[TokenizedRow], max_tokens: int) -> list[list[TokenizedRow]]:
    """The rows in groups of at most `max_tokens` tokens, shared ones counted for each of their
    rows (a longer row stands alone). Rows that begin alike are next to each other."""
    groups: list[list[TokenizedRow]] = []
    room = 0
    for row in sorted(rows, key=lambda row: row.input_ids):
        length = len(row.input_ids)
        if not groups or length > room:
            groups.append([])
            room = max_tokens
        groups[-1].append(row)
        room -= length
    return groups


def packed_logits(model: Any, packed: Pack) -> torch.Tensor:
    """(S, vocabulary): the logits that predict the scored tokens. `model` attends as it does
    within `packed_attention`."""
    out = model(
        input_ids=packed["input_ids"],
        position_ids=packed["position_ids"],
        logits_to_keep=packed["kept"],
        layout=packed["layout"],
        use_cache=False,
    )
    return out.logits[0]  # type: ignore[no-any-return]


def packed_nats(model: Any, packed: Pack) -> torch.Tensor:
    """(S,) −log p of every scored token, in float32: bfloat16 has 3 digits, too few to sum."""
    return token_nats(packed_logits(model, packed), packed["targets"])


def example_nats(model: Any, packed: Pack) -> list[float]:
    """Σ −log p of the scored tokens of each example, without gradients."""
    with torch.inference_mode():
        nats = packed_nats(model, packed).double()
        return [float(of_one.sum()) for of_one in torch.split(nats, packed["counts"])]


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """While this lasts, the model's attention is that of packed rows."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not getattr(plain, "_supports_attention_backend", False):
        name = type(plain).__name__
        raise ValueError(f"{name} does not let its attention be replaced: no rows can be packed.")
    before = plain.config._attn_implementation
    plain.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        plain.set_attn_implementation(before)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, heads, T, size), key and value (1, key heads,
    T, size) → (1, T, heads, size), causal within each of the examples."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    if kwargs.get("softcap"):
        raise ValueError("this model caps its attention scores, which packed rows cannot do yet.")
    scale, dropout = kwargs.get("scaling"), kwargs.get("dropout", 0.0)
    window = kwargs.get("sliding_window")
    if layout["places"] is not None:
        key, value = (_of_each(part, layout["places"]) for part in (key, value))
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _variable_length(query, key, value, layout, scale, window), None
    # float32 here: on CPUs it is more exact and, backward, twice as fast as bfloat16.
    with torch.autocast(query.device.type, enabled=False):
        queries = torch.split(query.float(), layout["lengths"], dim=2)
        keys = torch.split(key.float(), layout["spans"], dim=2)
        values = torch.split(value.float(), layout["spans"], dim=2)
        examples = zip(queries, keys, values, _causal(layout, window, query.device), strict=True)
        outputs = [
            scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, scale=scale, enable_gqa=True, **causal
            )
            for q, k, v, causal in examples
            if q.shape[2]  # none of an example that is the one before again
        ]
    return torch.cat(outputs, dim=2).transpose(1, 2).to(query.dtype), None


def _of_each(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, heads, T, size) → (1, heads, K, size): what examples share, again for each."""
    return tensor.transpose(1, 2).index_select(1, places).transpose(1, 2)


def _causal(layout: Layout, window: int | None, device: torch.device) -> list[dict[str, Any]]:
    """sdpa's arguments for each example."""
    made = layout["causal"]
    if window not in made:
        sizes = zip(layout["lengths"], layout["spans"], strict=True)
        made[window] = [_causal_of_one(length, span, window, device) for length, span in sizes]
    return made[window]


def _causal_of_one(
    length: int, span: int, window: int | None, device: torch.device
) -> dict[str, Any]:
    """For the last `length` of `span` tokens: each sees what is before it and itself, or the last
    `window` of these."""
    if length == span and (window is None or span <= window):
        return {"is_causal": True}
    seen = torch.ones(length, span, dtype=torch.bool, device=device).tril(span - length)
    if window is not None:
        seen = seen.triu(span - length + 1 - window)
    return {"attn_mask": torch.zeros(seen.shape, device=device).masked_fill(~seen, -torch.inf)}


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """All examples in one kernel, torch's FlashAttention for sequences of different lengths, which
    lets the last query see the last key."""
    q, k, v = (part[0].transpose(0, 1) for part in (query, key.to(query), value.to(query)))
    attended = varlen_attn(
        q,
        k,
        v,
        layout["query_ends"],
        layout["key_ends"],
        max(layout["lengths"]),
        max(layout["spans"]),
        scale=scale,
        window_size=(window - 1 if window else -1, 0),  # all before (-1), nothing after
        enable_gqa=True,
    )
    assert isinstance(attended, torch.Tensor)
    return attended[None]


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)

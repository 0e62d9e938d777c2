"""Several examples in one row of tokens, none of which sees another.

Positions restart with every example, attention is computed example by example, and logits only
where the next token is scored: nothing is spent on padding, on other examples' tokens, or on
logits that no one reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from chatpipe.cross_entropy import token_nats
from chatpipe.tokenization import IGNORED, TokenizedRow

ATTENTION = "chatpipe_packed"

Pack = dict[str, Any]


def pack(rows: Sequence[TokenizedRow]) -> Pack:
    """One packed row. With T tokens of which S are scored:

    input_ids, position_ids: (1, T); lengths: tokens of each example; kept: (S,), where the token
    before a scored one is; targets: (S,), the scored tokens; counts: scored tokens of each
    example. An example's first token is never scored: nothing of its own is before it.
    """
    lengths = [len(row.input_ids) for row in rows]
    starts = [sum(lengths[:place]) for place in range(len(rows))]
    places = [[i for i, label in enumerate(row.labels[1:]) if label != IGNORED] for row in rows]
    kept = [start + i for start, at in zip(starts, places, strict=True) for i in at]
    targets = [row.labels[i + 1] for row, at in zip(rows, places, strict=True) for i in at]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row.input_ids]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "lengths": lengths,
        "kept": torch.tensor(kept, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "counts": [len(at) for at in places],
    }


def packs(rows: Sequence[TokenizedRow], max_tokens: int) -> list[list[TokenizedRow]]:
    """The rows, the longest first, in as few groups as first-fit finds, each of at most
    `max_tokens` tokens (a longer row stands alone)."""
    groups: list[list[TokenizedRow]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids), reverse=True):
        length = len(row.input_ids)
        place = next((i for i, free in enumerate(room) if free >= length), None)
        if place is None:
            groups.append([row])
            room.append(max_tokens - length)
        else:
            groups[place].append(row)
            room[place] -= length
    return groups


def packed_logits(model: Any, packed: Pack) -> torch.Tensor:
    """(S, vocabulary): the logits that predict the scored tokens. `model` attends as it does
    within `packed_attention`."""
    out = model(
        input_ids=packed["input_ids"],
        position_ids=packed["position_ids"],
        logits_to_keep=packed["kept"],
        lengths=packed["lengths"],
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
    lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, heads, T, size), key and value (1, key heads,
    T, size) → (1, T, heads, size), causal within each of the examples."""
    if lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    if kwargs.get("softcap"):
        raise ValueError("this model caps its attention scores, which packed rows cannot do yet.")
    scale, dropout = kwargs.get("scaling"), kwargs.get("dropout", 0.0)
    window = kwargs.get("sliding_window")
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _variable_length(query, key, value, lengths, scale, window), None
    groups: int = module.num_key_value_groups  # type: ignore[assignment]
    heads = (query, repeat_kv(key, groups), repeat_kv(value, groups))
    # float32 here: on CPUs it is more exact and, backward, twice as fast as bfloat16.
    with torch.autocast(query.device.type, enabled=False):
        splits = [torch.split(part.float(), lengths, dim=2) for part in heads]
        outputs = [
            scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, scale=scale, **_causal(q.shape[2], window, q.device)
            )
            for q, k, v in zip(*splits, strict=True)
        ]
    return torch.cat(outputs, dim=2).transpose(1, 2).to(query.dtype), None


def _causal(length: int, window: int | None, device: torch.device) -> dict[str, Any]:
    """What comes before, or the last `window` tokens of it: sdpa's arguments."""
    if window is None or length <= window:
        return {"is_causal": True}
    everything = torch.ones(length, length, dtype=torch.bool, device=device)
    return {"attn_mask": everything.tril().triu(1 - window)}


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """All examples in one kernel: torch's FlashAttention for sequences of different lengths."""
    ends = torch.tensor([0, *lengths], device=query.device).cumsum(0, dtype=torch.int32)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key.to(query), value.to(query)))
    longest = max(lengths)
    causal = (window - 1 if window else -1, 0)  # what is before (all of it: -1), nothing after
    attended = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scale, window_size=causal, enable_gqa=True
    )
    assert isinstance(attended, torch.Tensor)
    return attended[None]


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)

"""Attention of packed rows: each example's own, at the cost of the examples.

On CUDA one kernel of variable lengths; on CPUs, and wherever that kernel is missing, example by
example.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from chatpipe.errors import ModelError
from chatpipe.kernels.switch import is_enabled, ran

ATTENTION = "chatpipe_packed"
VARLEN = "varlen_attention"
LARGEST_HEAD = 256  # of FlashAttention's
# What models say to their attention that is heeded, or known to change nothing here.
SUPPORTED_KWARGS = {"scaling", "dropout", "sliding_window"}
IGNORED_KWARGS = {"is_causal", "position_ids", "use_cache", "cache_position", "output_attentions"}
IGNORED_KWARGS |= {"output_router_logits"}


class ForwardState:
    """What the layers of one forward pass tell and hand on: how many have attended, and the
    masks by (length, span, window)."""

    def __init__(self) -> None:
        self.layers = 0
        self.masks: dict[tuple[int, int, int | None], torch.Tensor] = {}


class AttentionOptions(NamedTuple):
    """What the model asks of its attention: the factor of scores (None: 1 / √size), how many of
    the last tokens are seen (None: all), and the share of probabilities that is dropped."""

    scale: float | None
    window: int | None
    dropout: float


class Layout(TypedDict):
    """Where the N examples of a packed row are. Of T tokens that are computed for K tokens of
    examples:

    lengths: N, the tokens of each that are computed; spans: N, those that it attends to, shared
    ones among them; places: (K,), where in the packed row these are, None where nothing is shared;
    query_ends, key_ends: (N + 1,), the sums of lengths and of spans up to each example, as kernels
    want them.
    """

    lengths: list[int]
    spans: list[int]
    places: torch.Tensor | None
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    attended: ForwardState


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
    layout["attended"].layers += 1
    options = _attention_options(kwargs)
    if query.is_meta:  # nobody wants the values, only what the model asks for
        return query.new_empty(*query.shape[:3], value.shape[3]).transpose(1, 2), None
    key, value = key.to(query.dtype), value.to(query.dtype)
    if layout["places"] is not None:
        key, value = (_of_each(part, layout["places"]) for part in (key, value))
    if not options.dropout and _has_flash_attention(query, value) and is_enabled(VARLEN):
        ran(VARLEN)
        return _variable_length(query, key, value, layout, options), None
    return _one_by_one(query, key, value, layout, options), None


def _attention_options(kwargs: dict[str, Any]) -> AttentionOptions:
    """ModelError where the model asks its attention for anything that would be left out."""
    unknown = kwargs.keys() - SUPPORTED_KWARGS - IGNORED_KWARGS
    names = sorted(name for name in unknown if kwargs[name] is not None)
    if names:
        listed = ", ".join(names)
        raise ModelError(f"its attention asks for {listed}")
    return AttentionOptions(
        kwargs.get("scaling"), kwargs.get("sliding_window"), kwargs.get("dropout", 0.0)
    )


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    options: AttentionOptions,
) -> torch.Tensor:
    """Queries of the T tokens that are computed, keys and values of all K → attention of the T."""
    queries = torch.split(query, layout["lengths"], 2)
    keys, values = (torch.split(part, layout["spans"], 2) for part in (key, value))
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        for q, k, v in zip(queries, keys, values, strict=True):
            if not q.shape[2]:
                continue  # the example is the one before again
            outputs.append(_fused(q, k, v, layout["attended"], options))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attended: ForwardState,
    options: AttentionOptions,
) -> torch.Tensor:
    """One example by torch's own attention."""
    dtype, span, window = _computed_in(query), key.shape[2], options.window
    if query.device.type != "cpu":
        # Where FlashAttention cannot run, heads that share keys would go by the plain formula,
        # which keeps all probabilities in float32.
        key, value = (_of_each_head(part, query.shape[1]) for part in (key, value))
    plain = query.shape[2] == span and (window is None or span <= window)
    return scaled_dot_product_attention(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        attn_mask=None if plain else _mask(query, span, window, attended),
        is_causal=plain,
        dropout_p=options.dropout,
        scale=options.scale,
        enable_gqa=True,
    ).to(query.dtype)


def _computed_in(query: torch.Tensor) -> torch.dtype:
    """The type of scores: in float32, CPUs are more exact and, backward, torch's own attention is
    twice as fast as in bfloat16."""
    return torch.float32 if query.device.type == "cpu" else query.dtype


def _has_flash_attention(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether torch's FlashAttention runs on that: half precision and heads of one size that it
    knows, on Ampere GPUs or later."""
    size = query.shape[3]
    has_known_size = size == value.shape[3] and size % 8 == 0 and size <= LARGEST_HEAD
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half and has_known_size and _is_ampere_or_later(query.device)


def _is_ampere_or_later(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _of_each(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, heads, T, size) → (1, heads, K, size): what examples share, again for each."""
    return tensor.transpose(1, 2).index_select(1, places).transpose(1, 2)


def _of_each_head(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """(1, key heads, K, size) → (1, heads, K, size): what heads share, again for each."""
    return tensor.repeat_interleave(heads // tensor.shape[1], 1)


def _mask(
    query: torch.Tensor, span: int, window: int | None, attended: ForwardState
) -> torch.Tensor:
    """(L, span), to be added to the scores of the last L tokens of `span`: each sees itself and
    all before it, or the window - 1 before it. In float32 on a CPU."""
    length = query.shape[2]
    kind = (length, span, window)
    if kind not in attended.masks:
        everything = torch.ones(length, span, dtype=torch.bool, device=query.device)
        seen = everything.tril(span - length)
        if window is not None:
            seen = seen.triu(span - length + 1 - window)
        mask = torch.zeros_like(seen, dtype=_computed_in(query)).masked_fill(~seen, -torch.inf)
        attended.masks[kind] = mask
    return attended.masks[kind]


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    options: AttentionOptions,
) -> torch.Tensor:
    """All examples in one kernel, torch's FlashAttention for sequences of different lengths, which
    lets the last query see the last key."""
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    attended = varlen_attn(
        q,
        k,
        v,
        layout["query_ends"],
        layout["key_ends"],
        max(layout["lengths"]),
        max(layout["spans"]),
        scale=options.scale,
        window_size=(
            options.window - 1 if options.window else -1,
            0,
        ),  # all before (-1), nothing after
        enable_gqa=True,
    )
    assert isinstance(attended, torch.Tensor)
    return attended[None]


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)

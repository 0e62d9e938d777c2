"""How many rows a batch of answers may have, and which of them may be computed in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatpipe.generation.row_request import RowRequest

AT_ONCE = 64  # rows of a batch, whose caches are in memory together
CACHE_SHARE = 1 / 3  # of the memory that is free
# What transformers' models call what they keep of the tokens before.
CACHES = ("past_key_values", "cache_params", "state")


def mixes_adapters(model: Any) -> bool:
    """Whether rows of different adapters are in one pass."""
    from chatpipe.kernels.lora_inference import can_mix

    return reads_packed(model) and can_mix(model)


def reads_packed(model: Any) -> bool:
    """Whether prompts are read in packs, and then go on in batches padded on the left; models that
    cannot do the one may see the padding of the other."""
    from chatpipe.packing.batching import PACKED, batching_for

    return batching_for(model) is PACKED


def pass_key(model: Any) -> Callable[[RowRequest], tuple[str | int, ...]]:
    """Return what rows have in common that may be computed in one pass: nothing; or their adapter;
    or, without packs, adapter and length, so that they need no padding."""
    if mixes_adapters(model):
        return lambda row: ()
    if reads_packed(model):
        return lambda row: (row.adapter or "",)
    return lambda row: (row.adapter or "", len(row.ids_so_far))


def room_tokens(model: Any) -> float:
    """Tokens whose keys and values take no more than a share of the memory that is free: a cache is
    copied as it grows."""
    from chatpipe.models.devices import free_memory_bytes

    of_token = max(1, _cache_bytes(model, [0, 0]) / 2)
    return CACHE_SHARE * free_memory_bytes() / of_token


def _cache_bytes(model: Any, ids: list[int]) -> int:
    """Bytes of what the model keeps of these tokens; 0 where it keeps nothing."""
    import torch

    inputs = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.no_grad():
        out = model(input_ids=inputs)
    kept = next((out[name] for name in CACHES if out.get(name) is not None), None)
    return _tensor_bytes(kept)


def _tensor_bytes(part: Any, depth: int = 6) -> int:
    """Bytes of all tensors within that: lists, dictionaries and the caches of transformers."""
    import torch

    if isinstance(part, torch.Tensor):
        return part.nbytes
    if hasattr(part, "__dict__"):
        part = vars(part)
    parts = part.values() if isinstance(part, dict) else part
    if depth and isinstance(part, dict | list | tuple):
        return sum(_tensor_bytes(inner, depth - 1) for inner in parts)
    return 0

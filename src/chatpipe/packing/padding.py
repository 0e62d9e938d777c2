"""Rows in padded batches, computed by the model's own forward pass: the reference, and what is
done for models whose rows cannot be packed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from chatpipe.kernels.cross_entropy import token_nats
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow

PaddedBatch = dict[str, Any]


def padded_groups(
    rows: Sequence[TokenizedRow],
    max_tokens: int,
    concurrency: int = 1,
    max_read: int | None = None,
) -> list[list[TokenizedRow]]:
    """The rows, longest first, in groups of which each has at most `max_tokens` tokens with its
    padding (a longer row stands alone). The other arguments are those of `packs`; nothing is
    shared here and nothing runs side by side."""
    groups: list[list[TokenizedRow]] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids), reverse=True):
        group = groups[-1] if groups else None
        if group and len(group[0].input_ids) * (len(group) + 1) <= max_tokens:
            group.append(row)
        else:
            groups.append([row])
    return groups


def equal_length_groups(
    rows: Sequence[TokenizedRow],
    max_tokens: int,
    concurrency: int = 1,
    max_read: int | None = None,
) -> list[list[TokenizedRow]]:
    """As padded_groups, of rows of one length each: for models that see padding."""
    by_length: dict[int, list[TokenizedRow]] = {}
    for row in rows:
        by_length.setdefault(len(row.input_ids), []).append(row)
    return [group for alike in by_length.values() for group in padded_groups(alike, max_tokens)]


def pad(rows: Sequence[TokenizedRow]) -> PaddedBatch:
    """input_ids, attention_mask: (R, W), rows padded on the right, where a causal model does not
    see it; the mask is None where none is padded. kept: (S,), where of R * W places the token
    before a scored one is; targets: (S,), the scored tokens, row by row; counts: how many each row
    has."""
    width = max(len(row.input_ids) for row in rows)
    gaps = [width - len(row.input_ids) for row in rows]
    labels = torch.tensor(
        [row.labels[1:] + [IGNORED] * gap for row, gap in zip(rows, gaps, strict=True)]
    ).view(len(rows), width - 1)
    scored = labels != IGNORED
    in_row, before = scored.nonzero(as_tuple=True)
    mask = [[1] * (width - gap) + [0] * gap for gap in gaps]
    return {
        "input_ids": torch.tensor(
            [row.input_ids + [0] * gap for row, gap in zip(rows, gaps, strict=True)]
        ),
        "attention_mask": torch.tensor(mask) if any(gaps) else None,
        "kept": in_row * width + before,
        "targets": labels[scored],
        "counts": scored.sum(1).tolist(),
    }


def padded_nats(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """(S,) −log p of every scored token, in float32, row by row."""
    return token_nats(_kept_logits(model, batch), batch["targets"])


def padded_hits(model: Any, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """`padded_nats`, and (S,) whether each scored token is the most likely one."""
    logits = _kept_logits(model, batch)
    return token_nats(logits, batch["targets"]), logits.argmax(-1) == batch["targets"]


def _kept_logits(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """(S, vocabulary): those that predict the scored tokens. By their places: of a mask, a GPU
    would be asked how many they are."""
    logits = padded_logits(model, batch["input_ids"], batch["attention_mask"])
    return logits.flatten(0, 1)[batch["kept"]]


def padded_logits(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """(R, W, vocabulary) by the model's own forward pass; attention_mask: None where no row is
    padded."""
    parameters = _parameters(model)
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
    if attention_mask is not None and "attention_mask" in parameters:
        more["attention_mask"] = attention_mask
    return model(input_ids=input_ids, **more).logits  # type: ignore[no-any-return]


def own_attention(model: Any) -> AbstractContextManager[None]:
    """Nothing is changed: the model attends as it does."""
    return nullcontext()


def unwrapped(model: Any) -> Any:
    """The transformers model, without what several processes or peft have put around it."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _parameters(model: Any) -> set[str]:
    """What the model's forward pass takes by name."""
    return set(inspect.signature(unwrapped(model).forward).parameters)

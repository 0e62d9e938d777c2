"""Which layers of a base lora.target_modules names, and what is wrong with a name."""

from __future__ import annotations

from typing import Any

from chatpipe.config.schema import Lora
from chatpipe.utils.sentences import listed


def target_faults(model: Any, lora: Lora) -> list[str]:
    """A sentence for every name that matches no linear layer of the model, or others as well."""
    if isinstance(lora.target_modules, str):
        return []
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()
    linear = sorted({name.split(".")[-1] for name, m in modules.items() if is_linear(m)})
    faults = []
    for target in lora.target_modules:
        matched = {n: m for n, m in modules.items() if n == target or n.endswith("." + target)}
        others = sorted({type(m).__name__ for m in matched.values() if not is_linear(m)})
        tied = [n for n, m in matched.items() if m is head and _is_tied(model)]
        if not matched:
            reason = "matches no layer of the base"
        elif others:
            reason = f"is a {listed(others)}, not a linear layer"
        elif tied:
            reason = "shares its weights with the embedding, so an adapter would change both"
        else:
            continue
        faults.append(
            f"lora.target_modules: {target} {reason}; the linear layers are {', '.join(linear)}."
        )
    return faults


def is_linear(module: Any) -> bool:
    """Whether an adapter of the usual kind fits the module."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _is_tied(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied_by_config = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    return tied_by_config or head.weight is embedding.weight

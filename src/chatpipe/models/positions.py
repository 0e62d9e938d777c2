"""How many tokens a base model's position encoding was made for, and text that has more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatpipe.errors import ModelError


def positions_of(config: Any) -> int | None:
    """The most tokens of a text; None for a model that has no such limit.

    A scaled rotary encoding reaches as far as its scale says, whether or not
    max_position_embeddings says so too. One that changes with the length of the text (dynamic,
    longrope) reaches as far as it does not change: texts are computed together, and a longer one
    would change the figures of the others.
    """
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    scaled = [limit]
    for rope in _rope_settings(getattr(text, "rope_parameters", None)):
        if rope.get("rope_type") in ("dynamic", "longrope"):
            own = getattr(text, "original_max_position_embeddings", None)
            return int(rope.get("original_max_position_embeddings") or own or limit)
        factor = rope.get("factor")
        if isinstance(factor, int | float) and rope.get("rope_type") != "default":
            original = rope.get("original_max_position_embeddings") or limit
            scaled.append(int(factor * original))
    return max(scaled)


def check_positions(base: Path, longest: int, text: str, remedy: str) -> None:
    """ModelError where a text of so many tokens is longer than that base can read."""
    from chatpipe.models.base_checks import base_config

    fault = position_fault(positions_of(base_config(base)), longest, text, remedy)
    if fault:
        raise ModelError(fault)


def position_fault(limit: int | None, longest: int, text: str, remedy: str) -> str | None:
    """The sentence on a text that is too long; `text` is what it is, `remedy` how to mend it."""
    if limit is None or longest <= limit:
        return None
    return f"{text} has {longest:,} tokens, the base was made for {limit:,}; {remedy}."


def _rope_settings(parameters: Any) -> list[dict[str, Any]]:
    """One for all layers, or one for each kind of layer."""
    if not isinstance(parameters, dict):
        return []
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]

"""Held-out rows and panel prompts against the positions that a base was made for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatpipe.config import Variant
from chatpipe.positions import position_fault
from chatpipe.prompts import raw_prompt, segments, template
from chatpipe.tokenization import Encoder

UNBOUNDED = 1 << 30


def length_faults(
    variant: Variant, heldout: Path, tokenizer: Any, positions: int | None
) -> list[str]:
    """Sentences on what scoring and asking would give the base that it cannot read."""
    return [
        *_heldout_faults(variant, heldout, tokenizer, positions),
        *panel_faults(variant, tokenizer, positions),
    ]


def panel_faults(variant: Variant, tokenizer: Any, positions: int | None) -> list[str]:
    """One for every prompt of the panel that leaves no room for its answer."""
    encoder = Encoder(tokenizer, variant.prompt_template, "all", UNBOUNDED)
    faults = []
    for prompt in variant.panel:
        asked = [segments(variant.prompt_template, prompt.instruction, prompt.input)]
        longest = max(map(len, encoder.prompt_ids([*asked, raw_prompt(prompt)])))
        faults.append(
            position_fault(
                positions,
                longest + variant.generation.max_new_tokens,
                f"panel: prompt {prompt.id} with generation.max_new_tokens",
                "shorten it or lower max_new_tokens",
            )
        )
    return [fault for fault in faults if fault]


def template_faults(variant: Variant, tokenizer: Any, vocabulary: int | None) -> list[str]:
    """Whether the template holds a control token that the base's embedding has no row for."""
    encoder = Encoder(tokenizer, variant.prompt_template, "all", UNBOUNDED)
    asked = [segments(variant.prompt_template, "a", text) for text in ("", "a")]
    largest = max(number for ids in encoder.prompt_ids(asked) for number in ids)
    if vocabulary is None or largest < vocabulary:
        return []
    token = tokenizer.convert_ids_to_tokens(largest)
    return [
        f"prompt_template: {token!r} has the id {largest}, the base's embedding has {vocabulary} "
        "rows; take it out of the template, or take another base."
    ]


def _heldout_faults(
    variant: Variant, heldout: Path, tokenizer: Any, positions: int | None
) -> Iterator[str]:
    if not heldout.is_file():
        return
    most = variant.evaluation.max_length
    for name, used in (("paper's", template("paper")), ("variant's", variant.prompt_template)):
        rows = Encoder(tokenizer, used, "all", most).encode_file(heldout)
        if not len(rows.rows):
            if rows.left_out:
                yield f"evaluation.max_length: no held-out row fits into {most} tokens; raise it."
            return
        longest = max(len(row.input_ids) for row in rows.rows)
        fault = position_fault(
            positions,
            longest,
            f"evaluation.max_length: the longest held-out row in the {name} template",
            f"lower max_length to {positions}, then longer rows are left out and counted",
        )
        if fault:
            yield fault
            return

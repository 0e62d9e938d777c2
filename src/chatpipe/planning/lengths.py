"""Check held-out rows and panel prompts: evaluation.max_length and the base's positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.prompts import raw_prompt, template
from chatpipe.config.schema import Variant
from chatpipe.config.template_text import Segment
from chatpipe.formats.base import counted_reasons
from chatpipe.models.positions import position_fault
from chatpipe.report.schema import FEW_ROWS
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import TOO_LONG, Encoder
from chatpipe.utils.quantities import count_of

UNBOUNDED = 1 << 30


@dataclass(frozen=True)
class Lengths:
    """A sentence or None on the lengths of a data set's held-out rows."""

    fault: str | None = None
    note: str | None = None


def panel_faults(variant: Variant, tokenizer: Any, positions: int | None) -> list[str]:
    """Return a fault for every prompt of the panel that leaves no room for its answer."""
    encoder = Encoder(tokenizer, variant.prompt_template, "all", UNBOUNDED)
    faults = []
    for prompt in variant.panel:
        conversation = Conversation.of(prompt)
        longest = max(map(len, encoder.prompt_ids([conversation, raw_prompt(prompt)])))
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
    """Return a fault if the template has a control token without a row in the base's embedding.

    Raises ConfigError where a chat template does not work with this base.
    """
    encoder = Encoder(tokenizer, variant.prompt_template, "all", UNBOUNDED)
    conversations = [Conversation("a", text) for text in ("", "a")]
    stops = encoder.renderer.stops
    largest = max(number for ids in [*encoder.prompt_ids(conversations), stops] for number in ids)
    if vocabulary is None or largest < vocabulary:
        return []
    token = tokenizer.convert_ids_to_tokens(largest)
    return [
        f"prompt_template: {token!r} has the id {largest}, the base's embedding has {vocabulary} "
        "rows; take it out of the template, or take another base."
    ]


def lead_note(variant: Variant, tokenizer: Any) -> str | None:
    """Return a sentence on scored tokens that are not the reply's own, where there are any.

    Raises ConfigError where a chat template does not work with this base.
    """
    renderer = Encoder(tokenizer, variant.prompt_template, "all", UNBOUNDED).renderer
    if not renderer.lead.strip():
        return None
    [ids] = renderer.encoder.prompts([[Segment(renderer.lead, from_row=False)]])
    return (
        f"prompt_template: {count_of(len(ids), 'scored token')} of a reply "
        f"{'is' if len(ids) == 1 else 'are'} not the row's: the chat template writes "
        f"{renderer.lead!r} before it, and not at the end of the prompt "
        "(where add_generation_prompt is true)."
    )


def heldout_lengths(
    variant: Variant, dataset: str, heldout: Path, tokenizer: Any, positions: int | None
) -> Lengths:
    """Check the lengths of a data set's held-out rows; `heldout` is their Parquet file."""
    most = variant.evaluation.max_length
    of_set = f"evaluation.max_length: data set {dataset}"
    kept, left_out = UNBOUNDED, {}
    for name, used in (("paper's", template("paper")), ("variant's", variant.prompt_template)):
        rows = Encoder(tokenizer, used, "every_reply", most).encode_file(heldout)
        if not rows.row_count:
            reasons = _reasons(rows.left_out)
            return Lengths(
                fault=f"{of_set}: no held-out row fits into {most} tokens{reasons}; raise it."
            )
        kept, left_out = rows.row_count, rows.left_out
        fault = position_fault(
            positions,
            rows.longest,
            f"{of_set}: the longest held-out row in the {name} template",
            f"lower max_length to {positions}, then longer rows are left out and counted",
        )
        if fault:
            return Lengths(fault=fault)
    if not left_out:
        return Lengths()
    few = f"; intervals over fewer than {FEW_ROWS} are too narrow" if kept < FEW_ROWS else ""
    others = "" if left_out.keys() <= {TOO_LONG} else " or cannot be written by the template"
    why = f"longer than {most} tokens{others}"
    lost = sum(left_out.values())
    return Lengths(
        note=f"{of_set}: {lost:,} of {kept + lost:,} held-out rows are {why} "
        f"and are not scored{_reasons(left_out)}, {kept:,} are{few}."
    )


def _reasons(left_out: dict[str, int]) -> str:
    """The rows by reason, where not all are too long."""
    if left_out.keys() <= {TOO_LONG}:
        return ""
    return f" ({counted_reasons(left_out)})"

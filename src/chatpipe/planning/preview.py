"""Training rows as the model gets them: decoded token ids, with the scored part marked.

Only token ids and labels are read, so the preview is right however rows are rendered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Training, Variant
from chatpipe.errors import ConfigError
from chatpipe.models.loading import load_tokenizer
from chatpipe.planning.steps import DryRun, account_rows
from chatpipe.sources.metadata import base_metadata
from chatpipe.study.recipe import Recipe
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.finetune import Finetune
from chatpipe.training.rows import encode_training_rows

ROWS = 3  # of a plan
UNBOUNDED = 1 << 30


class PreviewPart(BaseModel):
    """Consecutive tokens that are all scored, or all not. text: the token ids decoded, control
    tokens such as EOS included."""

    model_config = ConfigDict(frozen=True)

    text: str
    tokens: int
    scored: bool


class PreviewRow(BaseModel):
    """One training row. row: its place in train.parquet, from 0. cut_tokens: those that
    training.max_length cuts off, on the side that training.too_long says."""

    model_config = ConfigDict(frozen=True)

    row: int
    tokens: int
    scored_tokens: int
    cut_tokens: int
    parts: tuple[PreviewPart, ...]


class Preview(BaseModel):
    """Some of a variant's training rows. training_rows: how many there are; left_out: rows that
    are not among them, by reason."""

    model_config = ConfigDict(frozen=True)

    variant: str
    max_length: int
    too_long: str
    training_rows: int
    left_out: dict[str, int]
    rows: tuple[PreviewRow, ...]


def preview(variant: Variant, rows: int) -> Preview:
    """Return that many of the variant's training rows, from the first to the last.

    Nothing but a base's small files is downloaded, as for a plan. Raises ConfigError where the
    rows or the tokenizer are not here yet.
    """
    recipe = Recipe([variant], DryRun())
    data = account_rows(recipe, variant)
    if data.faults:
        raise ConfigError([f"{variant.name}: {fault}" for fault in data.faults])
    missing = [dataset.name for dataset in data.datasets if dataset.examples is None]
    if missing or data.corpus is None:
        raise ConfigError(
            [
                f"{variant.name}: rows can be shown once they are downloaded "
                f"({', '.join(missing)}); `chatpipe run {variant.name}` downloads them."
            ]
        )
    base = base_metadata(variant.base_model)
    if base.directory is None:
        raise ConfigError([f"{variant.name}: no row can be shown: {base.unknown}"])
    recipe.base(variant)
    return preview_rows(
        variant.name, recipe.finetune(variant), load_tokenizer(base.directory), rows
    )


def preview_rows(name: str, request: Finetune, tokenizer: Any, count: int) -> Preview:
    """Return `count` of the rows that the request trains on, evenly spread over all of them."""
    encoded = encode_training_rows(request, tokenizer)
    total = len(encoded.rows)
    count = min(count, total)
    indices = [index * total // count for index in range(count)]
    chosen = [encoded.rows[index] for index in indices]
    lengths = _full_lengths(request, tokenizer, chosen) if encoded.cut else {}
    return Preview(
        variant=name,
        max_length=request.training.max_length,
        too_long=request.training.too_long,
        training_rows=total,
        left_out=encoded.left_out,
        rows=tuple(preview_row(tokenizer, row, lengths.get(row.index)) for row in chosen),
    )


def preview_row(tokenizer: Any, row: TokenizedRow, full_length: int | None = None) -> PreviewRow:
    """Return the row decoded in parts; full_length: its tokens before it was cut."""
    scored = scored_tokens(row.labels)
    parts = tuple(
        PreviewPart(text=text, tokens=end - start, scored=scored[start])
        for (start, end), text in _decoded(tokenizer, row.input_ids, scored)
    )
    tokens = len(row.input_ids)
    return PreviewRow(
        row=row.index,
        tokens=tokens,
        scored_tokens=sum(scored),
        cut_tokens=(full_length or tokens) - tokens,
        parts=parts,
    )


def scored_tokens(labels: Sequence[int]) -> list[bool]:
    """Return which tokens the loss is over; never the first, which nothing stands before."""
    return [index > 0 and label != IGNORED for index, label in enumerate(labels)]


def _decoded(
    tokenizer: Any, ids: Sequence[int], scored: Sequence[bool]
) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield ((start, end), text) of each part. A part is what it adds to the text before it, as
    tokenizers may decode a beginning differently (SentencePiece drops its space)."""
    start, before = 0, ""
    for _, group in groupby(scored):
        end = start + sum(1 for _ in group)
        whole = _text(tokenizer, ids[:end])
        is_longer = whole.startswith(before)
        yield (start, end), whole[len(before) :] if is_longer else _text(tokenizer, ids[start:end])
        start, before = end, whole


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def _full_lengths(
    request: Finetune, tokenizer: Any, rows: Sequence[TokenizedRow]
) -> dict[int, int]:
    """Map the index of each of the rows to its tokens before anything is cut."""
    unbounded = {"max_length": UNBOUNDED, "too_long": "drop"}
    training = Training.model_construct(**dict(request.training) | unbounded)
    whole = encode_training_rows(request.model_copy(update={"training": training}), tokenizer).rows
    indices = {row.index for row in rows}
    return {row.index: len(row.input_ids) for row in whole if row.index in indices}

"""Training rows as the model gets them: decoded token ids, with the scored part marked.

Only token ids and labels are read, so the preview is right however rows are rendered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.planning.rows import account_rows
from chatpipe.planning.steps import DryRun
from chatpipe.planning.token_stats import full_lengths
from chatpipe.sources.metadata import base_metadata
from chatpipe.study.recipe import Recipe
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.finetune import Finetune
from chatpipe.training.rows import encode_training_rows

ROWS = 3  # of a plan


class PreviewPart(BaseModel):
    """Consecutive tokens that are all scored, or all not. text: the token ids decoded, control
    tokens such as EOS included; ids: these token ids, which tell a control token from text that
    spells it."""

    model_config = ConfigDict(frozen=True)

    text: str
    tokens: int
    scored: bool
    ids: tuple[int, ...] = ()


class PreviewRow(BaseModel):
    """One example of a training row, of which most have one. row: its place in train.parquet, from
    0. cut_tokens: those of the whole row that training.max_length cuts off, as training.too_long
    says."""

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
    if variant.imported:
        raise ConfigError(
            [f"{variant.name}: was trained elsewhere, and its training rows are not here."]
        )
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
    from chatpipe.models.loading import load_tokenizer

    recipe.base(variant)
    return preview_rows(
        variant.name, recipe.finetune(variant), load_tokenizer(base.directory), rows
    )


def preview_rows(name: str, request: Finetune, tokenizer: Any, count: int) -> Preview:
    """Return `count` of the rows that the request trains on, evenly spread over all of them."""
    encoded = encode_training_rows(
        request.corpus, request.prompt_template, request.training, tokenizer
    )
    rows, total = encoded.by_row(), encoded.row_count
    count = min(count, total)
    chosen = [rows[place * total // count] for place in range(count)]
    lengths = full_lengths(request, tokenizer) if encoded.cut else {}
    return Preview(
        variant=name,
        max_length=request.training.max_length,
        too_long=request.training.too_long,
        training_rows=total,
        left_out=encoded.left_out,
        rows=tuple(
            preview_row(tokenizer, example, _cut_tokens(row, lengths))
            for row in chosen
            for example in row
        ),
    )


def preview_row(tokenizer: Any, row: TokenizedRow, cut_tokens: int = 0) -> PreviewRow:
    """Return the row (an example of it) decoded in parts."""
    scored = scored_tokens(row.labels)
    parts = tuple(
        PreviewPart(
            text=text,
            tokens=end - start,
            scored=scored[start],
            ids=tuple(row.input_ids[start:end]),
        )
        for (start, end), text in _decoded(tokenizer, row.input_ids, scored)
    )
    tokens = len(row.input_ids)
    return PreviewRow(
        row=row.index,
        tokens=tokens,
        scored_tokens=sum(scored),
        cut_tokens=cut_tokens,
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


def _cut_tokens(row: Sequence[TokenizedRow], full_lengths: Mapping[int, int]) -> int:
    tokens = sum(len(example.input_ids) for example in row)
    return full_lengths.get(row[0].index, tokens) - tokens

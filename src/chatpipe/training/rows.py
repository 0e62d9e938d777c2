"""The rows that a training reads, as tokens, and how many optimizer steps they fill."""

from __future__ import annotations

import math
from typing import Any

import pyarrow.parquet as pq

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.config.schema import Training
from chatpipe.errors import DataError
from chatpipe.formats.base import counted_reasons
from chatpipe.models.passes import StepRows
from chatpipe.store.artifact import Artifact
from chatpipe.tokenization.encoder import RESPONSE_CUT_AWAY, TOO_LONG, Encoder, Tokenized


def encode_training_rows(
    corpus: Artifact, template: AnyTemplate, training: Training, tokenizer: Any
) -> Tokenized:
    """Return the training split as tokens; DataError if no row is left to train on."""
    path = corpus.path / "train.parquet"
    encoder = Encoder(
        tokenizer,
        template,
        training.loss,
        training.max_length,
        training.too_long,
    )
    rows = encoder.encode_file(path)
    if not rows.row_count:
        reasons = counted_reasons(rows.left_out)
        none = f"none of {pq.read_metadata(path).num_rows:,} training rows is left"
        if rows.left_out.keys() & {TOO_LONG, RESPONSE_CUT_AWAY}:
            length = training.max_length
            raise DataError(f"training.max_length: {none} at {length} ({reasons}); raise it.")
        raise DataError(
            f"prompt_template: {none} ({reasons}); take another template or options, or rows that "
            "fit it."
        )
    return rows


def rows_of_a_step(training: Training, rows: Tokenized) -> StepRows:
    """Return what passes depend on of the rows of a training."""
    scored_share = rows.scored_tokens / rows.tokens
    return StepRows.of(training, len(rows.examples), rows.longest, scored_share)


def optimizer_steps(training: Training, rows: int) -> int:
    """Return the optimizer steps of a run; the last, smaller batch of an epoch counts as one."""
    per_epoch = math.ceil(rows / training.global_batch_size)
    # Rounded first: 1.1 epochs of 10 steps are 11, in floating point a little more than that.
    return max(1, math.ceil(round(training.epochs * per_epoch, 6)))


def rows_seen(training: Training, rows: int) -> int:
    """Return the rows of all optimizer steps; each counts as often as it is trained on."""
    size = training.global_batch_size
    epochs, steps_left = divmod(optimizer_steps(training, rows), math.ceil(rows / size))
    return epochs * rows + min(steps_left * size, rows)

"""What of each variant's gain over its base is the template, on every held-out set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import numpy as np

from chatpipe import report as contract
from chatpipe.config.schema import Evaluation
from chatpipe.evaluation.perplexity import bits_per_byte
from chatpipe.evaluation.perplexity import difference as paired_difference
from chatpipe.evaluation.reply_bytes import ReplyBytes
from chatpipe.evaluation.row_scores import Floats, RowScores, ScoreReader
from chatpipe.report.measured import Measured


def template_gains(
    models: Sequence[Measured], sets: Mapping[tuple[str, ...], ReplyBytes], reader: ScoreReader
) -> Iterator[contract.TemplateGain]:
    """Yield the gains of the variants whose base was measured in its own chat template as well."""
    by_name = {model.name: model for model in models}
    for model in models:
        base, own = by_name.get(model.base_model), by_name.get(model.own_template_base or "")
        if model.adapter is None or base is None or own is None:
            continue
        for parts, replies in sets.items():
            rows = _common_rows([model, base, own], parts, reader)
            if len(rows[0]):
                yield _gain((model, base, own), rows, " + ".join(parts), replies)


def _common_rows(
    models: Sequence[Measured], parts: tuple[str, ...], reader: ScoreReader
) -> list[RowScores]:
    """Return each model's scores of the rows that all of them were scored on, in one order.

    Their numbers of tokens may differ: templates end a reply with different tokens.
    """
    scores = [reader.rows(model.scores, parts, "response") for model in models]
    ids = reduce(np.intersect1d, [rows.ids for rows in scores])
    return [rows.rows_of(ids) for rows in scores]


def _gain(
    models: tuple[Measured, Measured, Measured],
    rows: Sequence[RowScores],
    heldout: str,
    replies: ReplyBytes,
) -> contract.TemplateGain:
    model, base, own = models
    tuned, untuned, untuned_own = rows
    reply_bytes = replies.of(tuned.ids)
    evaluation = model.variant.evaluation
    return contract.TemplateGain(
        model=model.name,
        base=base.name,
        own_template_base=own.name,
        heldout=heldout,
        rows=len(tuned),
        left_out=len(replies) - len(tuned),
        tokens=int(tuned.tokens.sum()),
        base_nats=float(untuned.nats.sum()),
        own_template_nats=float(untuned_own.nats.sum()),
        nats=float(tuned.nats.sum()),
        gain=_bits((untuned.nats, tuned.nats), reply_bytes, evaluation),
        template=_bits((untuned.nats, untuned_own.nats), reply_bytes, evaluation),
        training=_bits((untuned_own.nats, tuned.nats), reply_bytes, evaluation),
    )


def _bits(
    pair: tuple[Floats, Floats], reply_bytes: Floats, evaluation: Evaluation
) -> contract.BitsPerByte:
    """Return the first nats minus the second ones, in bits per byte, with its paired interval."""
    value = paired_difference(
        bits_per_byte, pair, reply_bytes, evaluation.bootstrap_samples, evaluation.seed
    )
    return contract.BitsPerByte(**vars(value), bytes=int(reply_bytes.sum()))

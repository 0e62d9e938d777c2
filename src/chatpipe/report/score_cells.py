"""Figures of every model on every held-out set, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chatpipe import report as contract
from chatpipe.config.schema import Evaluation
from chatpipe.evaluation.metrics import METRICS
from chatpipe.evaluation.perplexity import bits_per_byte, interval
from chatpipe.evaluation.reply_bytes import ReplyBytes
from chatpipe.evaluation.row_scores import RowScores, ScoreReader, groups_by_tokens
from chatpipe.report.differences import set_name
from chatpipe.report.measured import Measured
from chatpipe.store.artifact import Artifact
from chatpipe.utils.unique import unique_by


def figures(
    models: Sequence[Measured], heldout: Mapping[str, Artifact]
) -> list[contract.ScoreCell]:
    """Return every metric of every model on every held-out set, and on the unions trained on.

    heldout: data set -> its held-out rows.
    """
    return score_cells(models, heldout_sets(models, heldout), ScoreReader())


def score_cells(
    models: Sequence[Measured], sets: Mapping[tuple[str, ...], ReplyBytes], reader: ScoreReader
) -> list[contract.ScoreCell]:
    """Return every figure of every model on these sets."""
    return [
        cell
        for model in models
        for parts, replies in sets.items()
        for cell in _cells(model, parts, replies, reader)
    ]


def heldout_sets(
    models: Sequence[Measured], heldout: Mapping[str, Artifact]
) -> dict[tuple[str, ...], ReplyBytes]:
    """Return the bytes of the replies of each data set's held-out set, of those of one's own, and
    of the unions that variants were trained on.

    Two unions of the same parts in another order are one.
    """
    unions = [tuple(d.name for d in m.variant.datasets) for m in models if m.adapter]
    singles = [(name,) for union in unions for name in union]
    own = [(name,) for name in heldout]
    sets = unique_by([*singles, *own, *sorted(unions, key=len)], frozenset)
    return {parts: ReplyBytes.read(heldout, parts) for parts in sets}


def _cells(
    model: Measured, parts: tuple[str, ...], replies: ReplyBytes, reader: ScoreReader
) -> list[contract.ScoreCell]:
    """Return the model's figures on a set of rows, for each metric that has rows."""
    evaluation = model.variant.evaluation
    is_elsewhere = model.variant.imported is not None and model.adapter is not None
    trained_here = model.adapter and not is_elsewhere
    trained_on = {dataset.name for dataset in model.variant.datasets} if trained_here else set()
    cells = []
    for name, metric in METRICS.items():
        rows = reader.rows(model.scores, parts, metric.labels)
        if not len(rows):
            continue
        value = interval(
            metric.measure, rows.nats, rows.tokens, evaluation.bootstrap_samples, evaluation.seed
        )
        cells.append(
            contract.ScoreCell(
                model=model.name,
                heldout=set_name(parts),
                metric=name,
                value=value.value,
                low=value.low,
                high=value.high,
                rows=len(rows),
                tokens=int(rows.tokens.sum()),
                nats=float(rows.nats.sum()),
                seen_in_training=None
                if is_elsewhere
                else reader.count_in_training(model.corpus, rows.ids),
                own=set(parts) <= trained_on,
                left_out=len(replies) - len(rows),
                bits_per_byte=_bits(rows, replies, evaluation) if name == "perplexity" else None,
            )
        )
    return cells


def _bits(rows: RowScores, replies: ReplyBytes, evaluation: Evaluation) -> contract.BitsPerByte:
    reply_bytes = replies.of(rows.ids)
    value = interval(
        bits_per_byte, rows.nats, reply_bytes, evaluation.bootstrap_samples, evaluation.seed
    )
    return contract.BitsPerByte(**vars(value), bytes=int(reply_bytes.sum()))


def tokenizers(models: Sequence[Measured], reader: ScoreReader) -> list[list[str]]:
    """The bases, grouped by how many tokens they cut the replies into; nothing where all are
    alike.

    A base in its own chat template only for comparison is left out: it may end a reply with other
    tokens, but its tokenizer is among the others.
    """
    compared = {model.own_template_base for model in models} - {
        model.base_model for model in models if model.adapter
    }
    bases = unique_by(
        (model for model in models if model.name not in compared), lambda model: model.base_model
    )
    groups = groups_by_tokens(
        {
            model.base_model: reader.rows(model.scores, tuple(model.scores), "response")
            for model in bases
        }
    )
    return groups if len(groups) > 1 else []

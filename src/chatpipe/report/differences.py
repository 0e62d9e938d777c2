"""Every variant's perplexity minus its base's, on the rows that both were scored on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from chatpipe import report as contract
from chatpipe.evaluation.metrics import METRICS
from chatpipe.evaluation.perplexity import bits_per_byte
from chatpipe.evaluation.perplexity import difference as paired_difference
from chatpipe.evaluation.reply_bytes import ReplyBytes
from chatpipe.evaluation.row_scores import ScoreReader, common_rows
from chatpipe.report.measured import Measured


def differences_from_bases(
    models: Sequence[Measured], sets: Mapping[tuple[str, ...], ReplyBytes], reader: ScoreReader
) -> tuple[list[contract.Difference], list[str]]:
    """Return each variant minus its base on every set, and why some are missing."""
    bases = {model.base_model: model for model in models if model.adapter is None}
    differences, notes = [], []
    for model in models:
        base = bases.get(model.base_model)
        if model.adapter is None or base is None:
            continue
        for parts, replies in sets.items():
            try:
                difference = _difference((model, base), parts, replies, reader)
            except ValueError as error:
                pair = f"{model.name} and {base.name} on {set_name(parts)}"
                notes.append(f"{pair}: not compared, because {error}.")
                continue
            differences += [difference] if difference else []
    return differences, notes


def _difference(
    pair: tuple[Measured, Measured],
    parts: tuple[str, ...],
    replies: ReplyBytes,
    reader: ScoreReader,
) -> contract.Difference | None:
    """Compare on the rows that both were scored on; None where there are none."""
    model, base = pair
    metric = METRICS["perplexity"]
    evaluation = model.variant.evaluation
    all_rows = [reader.rows(each.scores, parts, metric.labels) for each in pair]
    tuned, untuned = common_rows(*all_rows)
    if not len(tuned):
        return None
    reply_bytes = replies.of(tuned.ids)
    value, bits = (
        paired_difference(
            measure,
            (tuned.nats, untuned.nats),
            counts,
            evaluation.bootstrap_samples,
            evaluation.seed,
        )
        for measure, counts in ((metric.measure, tuned.tokens), (bits_per_byte, reply_bytes))
    )
    return contract.Difference(
        model=model.name,
        base=base.name,
        heldout=set_name(parts),
        value=value.value,
        low=value.low,
        high=value.high,
        rows=len(tuned),
        left_out=sum(map(len, all_rows)) - 2 * len(tuned),
        bits_per_byte=contract.BitsPerByte(**vars(bits), bytes=int(reply_bytes.sum())),
    )


def set_name(parts: Iterable[str]) -> str:
    """Return the name of the union of those data sets' held-out rows."""
    return " + ".join(parts)

"""What a report says first of held-out rows that share words with training rows."""

from __future__ import annotations

from collections.abc import Iterator

from chatpipe.report.formatting import per_cent
from chatpipe.report.schema import Report
from chatpipe.utils.texts import join, translate

MOST_SHARED = 0.1  # of a set's rows; a larger share is in the first lines
MOST_NAMED = 3  # models


def contamination_sentences(report: Report) -> Iterator[str]:
    """Name each data set of which more than a tenth of the held-out rows share words with training
    rows, and the models that were trained on these."""
    parts: dict[str, list[str]] = {}
    for each in report.contamination:
        for count in each.counts:
            if count.heldout is None or count.sharing <= MOST_SHARED * count.texts:
                continue
            part = translate(
                "{sharing} of {texts} ({share}) with those of {models}",
                sharing=f"{count.sharing:,}",
                texts=f"{count.texts:,}",
                share=per_cent(count.sharing / count.texts),
                models=_first_names(each.models),
            )
            parts.setdefault(count.heldout, []).append(part)
    for heldout, counts in parts.items():
        yield translate(
            "Contamination: held-out rows of {heldout} share {words} words in a row with training "
            "rows, {counts}; these models' figures on {heldout} may be of rows learnt by heart.",
            heldout=heldout,
            words=report.contamination[0].words,
            counts=join(counts[:MOST_NAMED]),
        )


def _first_names(models: list[str]) -> str:
    first, more = join(models[:MOST_NAMED]), len(models) - MOST_NAMED
    return translate("{first} and {more} more", first=first, more=more) if more > 0 else first

"""Held-out rows and prompts that share a run of words with the rows that a model was trained on.

Brown et al. 2020 (GPT-3, appendix C) count a text as contaminated that has a run of N words in
common with the training data, N from 8 to 13 by the length of the texts; 8 here, as rows are short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from chatpipe.data.examples import stored_examples
from chatpipe.data.word_runs import Hashes, row_texts, runs_of
from chatpipe.report.measured import Measured
from chatpipe.report.schema.accounts import Contamination, SharedWords
from chatpipe.store.artifact import Artifact

WORDS = 8


def contamination(
    models: Sequence[Measured], heldout: Mapping[str, Artifact]
) -> Iterator[Contamination]:
    """Yield for each set of training rows how many held-out rows and prompts of the panel share a
    run of words with it."""
    trained: dict[Artifact, list[Measured]] = {}
    for model in models:
        if model.corpus is not None:
            trained.setdefault(model.corpus, []).append(model)
    for corpus, of_corpus in trained.items():
        prompts = {prompt.id: prompt for model in of_corpus for prompt in model.variant.panel}
        texts = tuple(" ".join(prompt.texts()) for prompt in prompts.values())
        counts = _counts(corpus, tuple(heldout.values()), texts)
        yield Contamination(
            models=[model.name for model in of_corpus],
            words=WORDS,
            counts=[
                SharedWords(heldout=name, texts=number, sharing=sharing)
                for name, (sharing, number) in zip([*heldout, None], counts, strict=True)
            ],
        )


def contamination_note(figure: Contamination) -> str:
    """Return it as a sentence of the report's notes."""
    counts = ", ".join(map(_share_in_words, figure.counts))
    return (
        f"contamination: {counts} share {figure.words} words in a row with the training rows of "
        f"{', '.join(figure.models)}; they are scored like the others."
    )


def _share_in_words(shared: SharedWords) -> str:
    texts = (
        "prompts of the panel" if shared.heldout is None else f"held-out rows of {shared.heldout}"
    )
    return f"{shared.sharing:,} of {shared.texts:,} {texts}"


@lru_cache(maxsize=1024)
def _counts(
    corpus: Artifact, heldout: tuple[Artifact, ...], panel: tuple[str, ...]
) -> list[tuple[int, int]]:
    """Of each held-out set and of the panel, how many texts share a run with the training rows, and
    how many there are. Remembered, as a study's table is made anew whenever a model is measured."""
    trained_runs = training_runs(_texts(corpus.path / "train.parquet"))
    texts = [*(_texts(rows.path / "heldout.parquet") for rows in heldout), panel]
    runs = [[*_long_runs(of_set)] for of_set in texts]
    return [(count_sharing(of_set, trained_runs), len(of_set)) for of_set in runs]


def training_runs(texts: Iterable[str]) -> Hashes:
    """Return all different runs of the texts, in order."""
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *_long_runs(texts)]))


def count_sharing(texts: Sequence[Hashes], trained_runs: Hashes) -> int:
    """Return how many of the texts have one of these runs."""
    return sum(bool(np.isin(runs, trained_runs).any()) for runs in texts)


def _long_runs(texts: Iterable[str]) -> Iterator[Hashes]:
    """Yield the runs of each text; a shorter text has none."""
    return runs_of(texts, WORDS, shorter=False)


def _texts(path: Path) -> Iterator[str]:
    for table in stored_examples(path):
        yield from row_texts(table)

"""The base and the rows that all benchmarks use: the embedded ones, or a file of one's own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.config.prompts import template
from chatpipe.config.schema import BaseModelRef, Dataset
from chatpipe.data.normalize import Normalize
from chatpipe.models.loading import load_tokenizer
from chatpipe.planning.row_checks import format_of
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.store.artifact import Artifact
from chatpipe.store.store import store
from chatpipe.study.loading import load_variant
from chatpipe.tokenization.encoder import Encoder, TokenizedRow

MAX_LENGTH = 1024


def base_model(directory: str | None = None) -> Artifact:
    """The embedded 135M base, fetched once into CHATPIPE_HOME, or that directory's model."""
    ref = BaseModelRef(repo=directory) if directory else load_variant("smol-merge").base_model
    return store().get_or_build(FetchModel.of(ref))


def examples(file: Path | None) -> pa.Table:
    """Normalized rows: the packaged samples, or those of a file."""
    if file is None:
        datasets = load_variant("smol-merge").datasets
    else:
        path = str(file.absolute())
        datasets = (Dataset(name="rows", path=path, format=format_of(file)),)
    made = [
        store().get_or_build(Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset))))
        for dataset in datasets
    ]
    return pa.concat_tables([pq.read_table(rows.path / "examples.parquet") for rows in made])


def tokenized(
    base: Artifact, file: Path | None, counts: tuple[int, int], length: int | None = None
) -> tuple[list[TokenizedRow], list[TokenizedRow]]:
    """(training, held-out) rows: so many of each, drawn by a fixed seed; with a length, each is
    many rows joined to so many tokens."""
    encoder = Encoder(load_tokenizer(base.path), template("alpaca"), "every_reply", MAX_LENGTH)
    rows = encoder.encode(examples(file)).examples
    random.Random(0).shuffle(rows)
    train, heldout = counts
    if length:
        rows = list(joined(itertools.cycle(rows), train + heldout, length))
    if len(rows) < train + heldout:
        raise SystemExit(f"{train + heldout} rows are wanted, {len(rows)} are there.")
    return rows[:train], rows[train : train + heldout]


def joined(rows: Iterable[TokenizedRow], count: int, length: int) -> Iterator[TokenizedRow]:
    """So many rows of exactly so many tokens: the given ones behind each other, cut."""
    endless = iter(rows)
    ids: list[int] = []
    labels: list[int] = []
    for index in range(count):
        while len(ids) < length:
            row = next(endless)
            ids += row.input_ids
            labels += row.labels
        yield TokenizedRow(input_ids=ids[:length], labels=labels[:length], index=index)
        ids, labels = ids[length:], labels[length:]

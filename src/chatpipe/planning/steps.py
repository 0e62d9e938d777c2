"""Which artifacts of a variant exist, which would be made, and which downloaded; its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Dataset, Split, Variant
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize, RowAccount
from chatpipe.errors import ChatpipeError
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.report.schema import FEW_ROWS
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.metadata import Upstream, upstream_dataset
from chatpipe.store.artifact import Artifact, Request, shared_manifest
from chatpipe.store.store import store


class Step(BaseModel):
    """One artifact: what it is of, whether it is there, and its bytes where they are known."""

    model_config = ConfigDict(frozen=True)

    kind: str
    what: str
    state: Literal["exists", "make", "download"]
    bytes: int | None = None


class DatasetRows(BaseModel):
    """The rows of one data set: counted, or (before it is fetched) those of the catalogue."""

    model_config = ConfigDict(frozen=True)

    name: str
    account: RowAccount | None = None
    expected_rows: int | None = None
    examples: Artifact | None = None
    heldout: Artifact | None = None
    heldout_rows: int | None = None
    download_bytes: int = 0
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
        return self.corpus is not None

    @property
    def download_bytes(self) -> int:
        """What is still to be fetched, where that is known."""
        return sum(dataset.download_bytes for dataset in self.datasets)

    @property
    def files_bytes(self) -> int:
        """The source files of the data sets that are still to be normalized."""
        return sum(dataset.files_bytes for dataset in self.datasets)


def data_of(variant: Variant) -> tuple[Data, list[Step]]:
    """The rows. Local data sets are normalized and merged into the store (seconds); others
    count by the catalogue until they are there."""
    datasets: list[DatasetRows] = []
    steps: list[Step] = []
    notes: list[str] = []
    faults: list[str] = []
    for dataset in variant.datasets:
        try:
            datasets.append(_rows_of(dataset, steps, notes))
        except ChatpipeError as error:
            faults.append(str(error))
            datasets.append(DatasetRows(name=dataset.name))
    parts = tuple(rows.examples for rows in datasets if rows.examples)
    merge = Merge(examples=parts, split=variant.split) if len(parts) == len(datasets) else None
    # Before the held-out rows are divided off, which for a single data set does the merge.
    steps.append(state_of(merge, variant.name, Merge.kind)[0])
    datasets = [_with_heldout(rows, variant.split, faults) for rows in datasets]
    notes += [note for rows in datasets for note in _few_rows(rows)]
    corpus = None
    if merge and not faults:
        try:
            corpus = store().obtain(merge)
        except ChatpipeError as error:
            faults.append(str(error))
    counts = _counts(corpus) if corpus else _expected(datasets, variant.split, faults)
    return Data(
        datasets=tuple(datasets), notes=tuple(notes), faults=tuple(faults), corpus=corpus, **counts
    ), steps


def heldout_of(dataset: Dataset, split: Split) -> Artifact | None:
    """The data set's held-out rows, where its rows are here and can be used."""
    request = FetchDataset.of(dataset)
    if request.path is None and state_of(request, dataset.name)[1] is None:
        return None
    try:
        return _with_heldout(_rows_of(dataset, [], []), split, []).heldout
    except ChatpipeError:
        return None


def base_step(variant: Variant, upstream: Upstream) -> Step:
    """The base model, there or to be downloaded."""
    name = variant.base_model.repo
    if upstream.artifact is not None:
        size = upstream.artifact.size()
        return Step(kind=FetchModel.kind, what=name, state="exists", bytes=size)
    return Step(kind=FetchModel.kind, what=name, state="download", bytes=upstream.download_bytes)


def measuring_steps(
    variant: Variant, data: Data, base: Artifact | None, adapter: Artifact | None
) -> list[Step]:
    """Scores and generations of the base and of the adapter, on every held-out set."""
    settings = (variant.prompt_template, variant.quantization, variant.evaluation)
    steps = []
    for name, model, is_base in (("base", base, True), (variant.name, adapter, False)):
        pair = (base, None if is_base else adapter) if base and model else None
        for dataset in data.datasets:
            heldout = dataset.heldout
            score = Score.of(pair, heldout, settings) if pair and heldout else None
            steps.append(state_of(score, f"{name} on {dataset.name}", Score.kind)[0])
        ask = Ask.of(variant, *pair) if pair else None
        steps.append(state_of(ask, f"{name} on the panel", Ask.kind)[0])
    return steps


def state_of(
    request: Request | None, what: str, kind: str = "adapter"
) -> tuple[Step, Artifact | None]:
    """Whether the store has it; a request that cannot be known yet is one to be made."""
    if request is None:
        return Step(kind=kind, what=what, state="make"), None
    kind, key = request.kind, request.key()
    found = store().find(kind, key)
    if found is None:
        seal = shared_manifest(kind, key)
        if seal is None:
            return Step(kind=kind, what=what, state="make"), None
        size = sum(file["size"] for file in seal["files"].values())
        elsewhere = Artifact(kind=kind, key=key, digest=seal["digest"])
        return Step(kind=kind, what=what, state="download", bytes=size), elsewhere
    return Step(kind=kind, what=what, state="exists", bytes=found.size()), found


def _rows_of(dataset: Dataset, steps: list[Step], notes: list[str]) -> DatasetRows:
    request = FetchDataset.of(dataset)
    step, raw = state_of(request, dataset.name)
    if raw is None and request.path is None:
        return _not_here(dataset, request, steps, notes)
    steps.append(step)
    raw = store().obtain(request)
    normalize = Normalize.of(dataset, raw)
    steps.append(state_of(normalize, dataset.name)[0])
    examples = store().obtain(normalize)
    details = examples.details()
    notes += details["warnings"]
    return DatasetRows(
        name=dataset.name,
        account=RowAccount.model_validate(details["account"]),
        expected_rows=dataset.expected_rows,
        examples=examples,
    )


def _not_here(
    dataset: Dataset, request: FetchDataset, steps: list[Step], notes: list[str]
) -> DatasetRows:
    known = upstream_dataset(request)
    if known.unknown:
        notes.append(known.unknown)
    if known.instead_of:
        why = " ".join(known.instead_of)
        notes.append(f"data set {dataset.name} would come from {known.repo}: {why}")
    rows = f"{dataset.expected_rows:,} rows are expected" if dataset.expected_rows else "no count"
    notes.append(f"data set {dataset.name} is not in the store yet: {rows}, lengths unknown.")
    size = known.download_bytes
    steps.append(Step(kind=FetchDataset.kind, what=dataset.name, state="download", bytes=size))
    steps.append(Step(kind=Normalize.kind, what=dataset.name, state="make"))
    return DatasetRows(
        name=dataset.name,
        expected_rows=dataset.expected_rows,
        download_bytes=known.download_bytes or 0,
        files_bytes=known.files_bytes or 0,
    )


def _counts(corpus: Artifact) -> dict[str, Any]:
    details = corpus.details()
    return {
        "merged": RowAccount.model_validate(details["account"]),
        "train_rows": details["train_rows"],
        "heldout_rows": details["heldout_rows"],
    }


def _expected(
    datasets: Sequence[DatasetRows], split: Split, faults: Sequence[str]
) -> dict[str, Any]:
    """Rows by the counts that there are; held out: about its share."""
    if faults:
        return {"train_rows": 0, "heldout_rows": 0}
    rows = sum(d.account.kept if d.account else d.expected_rows or 0 for d in datasets)
    heldout = round(rows * split.heldout)
    train = rows if split.method == "none" else rows - heldout
    return {"train_rows": train, "heldout_rows": heldout}


def _with_heldout(rows: DatasetRows, split: Split, faults: list[str]) -> DatasetRows:
    """With the held-out rows that models are scored on, where the rows are there; a data set that
    has none is a fault."""
    if rows.examples is None:
        expected = rows.expected_rows
        about = None if expected is None else round(expected * split.heldout)
        return rows.model_copy(update={"heldout_rows": about})
    try:
        heldout = store().obtain(Merge.held_out_of(rows.examples, split))
    except ChatpipeError as error:
        faults.append(f"data set {rows.name}: {error}")
        return rows
    found = {"heldout": heldout, "heldout_rows": heldout.details()["heldout_rows"]}
    return rows.model_copy(update=found)


def _few_rows(rows: DatasetRows) -> list[str]:
    if rows.heldout_rows is None or rows.heldout_rows >= FEW_ROWS:
        return []
    return [
        f"data set {rows.name}: {rows.heldout_rows} held-out rows; intervals over fewer than "
        f"{FEW_ROWS} are too narrow: raise split.heldout or add rows."
    ]

"""The rows that a variant's steps set aside, as a person finds them in the files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Dataset, Variant
from chatpipe.data.examples import stored_examples
from chatpipe.data.folders import ROWS
from chatpipe.data.normalize import raw_files, source_name
from chatpipe.data.reading import RowFile
from chatpipe.data.row_details import row_details
from chatpipe.formats.registry import FORMATS
from chatpipe.store.artifact import Artifact, recorded_manifest
from chatpipe.store.store import store
from chatpipe.study.lookup import own_heldout, stored
from chatpipe.study.recipe import Recipe

DROPPED = "dropped.parquet"
_TEXTS = ("instruction", "input", "output", "system", "history")


@dataclass(frozen=True)
class _File:
    """A file with unusable rows: what its owner calls it, and what is wrong with its rows (row ->
    words)."""

    name: str
    details: Mapping[int, str]


def dropped_rows(variant: Variant) -> Iterator[dict[str, Any]]:
    """Yield every row that is neither trained on nor held out: its data set, file and row (counted
    from 1, as `validate` does), the reason, and its texts and id, where it has some.

    ArtifactError, before the first row, where the variant has not been run.
    """
    recipe = stored(variant)
    artifacts = list(_artifacts(recipe, variant))
    files = {dataset.name: _files(recipe, dataset) for dataset in variant.read_datasets}
    for artifact in artifacts:
        for row in _rows(artifact):
            yield _described(row, files[row["source"]].get(row["file"]))


def _artifacts(recipe: Recipe, variant: Variant) -> Iterator[Artifact]:
    """Yield the artifacts that rows of the variant were set aside for."""
    # Without a split, most rows that were set aside are trained on; the corpus has those that are
    # not.
    is_corpus_enough = variant.split.method == "none" and not variant.imported
    if not is_corpus_enough:
        yield from map(recipe.examples, variant.datasets)
    if variant.imported:  # trained elsewhere: there is no corpus
        for dataset in variant.datasets:
            yield recipe.heldout(dataset, variant.split)
    else:
        yield recipe.corpus(variant)
    if variant.heldout:
        yield recipe.examples(variant.heldout)
        yield own_heldout(recipe, variant.heldout, variant.split)


def _files(recipe: Recipe, dataset: Dataset) -> dict[str, _File]:
    """Return the files with unusable rows by the names that rows are stored with, without names
    that several files of the data set have: nothing tells whose row it is."""
    examples = recipe.examples(dataset)
    reasons: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for row in _rows(examples):
        reasons[row["file"]][row["row"] + 1] = row["reason"]
    if not reasons:
        return {}
    request = recorded_manifest(examples)["asked"]
    raw = store().fetch(recipe.raw(dataset))
    paths = raw_files(raw, tuple(request["files"]), dataset.name)
    times = Counter(path.name for path in paths)
    files = {}
    for path in paths:
        if times[path.name] == 1 and path.name in reasons:
            columns = RowFile(path, FORMATS[request["format"]], request["columns"]).columns
            shown = source_name(raw.details(), path.relative_to(raw.path / ROWS).as_posix())
            details = row_details(path, columns, reasons[path.name])
            files[path.name] = _File(shown or path.name, details)
    return files


def _rows(artifact: Artifact) -> Iterator[dict[str, Any]]:
    file: Path = store().fetch(artifact).path / DROPPED
    for table in stored_examples(file):
        yield from table.to_pylist()


def _described(row: dict[str, Any], file: _File | None) -> dict[str, Any]:
    """A stored row as it is printed. Rows without any text share one id, which says nothing."""
    position: dict[str, Any] = {}
    if row["file"] is not None:
        position = {"file": file.name if file else row["file"], "row": row["row"] + 1}
    texts = {key: row[key] for key in _TEXTS if row[key]}
    detail = file.details.get(row["row"] + 1) if file else None
    return {
        "dataset": row["source"],
        **position,
        "reason": f"{row['reason']} ({detail})" if detail else row["reason"],
        **texts,
        **({"id": row["id"]} if texts else {}),
    }

"""The rows that a variant's steps set aside, as a person finds them in the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Dataset, Variant
from chatpipe.data.examples import stored_examples
from chatpipe.data.normalize import raw_files, source_name
from chatpipe.data.reading import RowFile
from chatpipe.data.row_details import row_details
from chatpipe.formats.registry import FORMATS
from chatpipe.store.artifact import Artifact, recorded_manifest
from chatpipe.store.store import store
from chatpipe.study.lookup import stored
from chatpipe.study.recipe import Recipe

DROPPED = "dropped.parquet"
_TEXTS = ("instruction", "input", "output", "system", "history")


def dropped_rows(variant: Variant) -> Iterator[dict[str, Any]]:
    """Yield every row that is neither trained on nor held out: its data set, file and row (counted
    from 1, as `validate` does), the reason, and its texts and id, where it has some.

    ArtifactError where the variant has not been run.
    """
    recipe = stored(variant)
    is_split = variant.split.method != "none"
    for dataset in variant.read_datasets:
        if is_split or dataset == variant.heldout:
            yield from _of_source(recipe, dataset)
    merged = recipe.corpus(variant)
    for row in _rows(merged):
        yield _described(row, row["source"])
    if variant.heldout:
        own = recipe.own_heldout(variant.heldout, variant.split)
        for row in _rows(own):
            yield _described(row, variant.heldout.name)


def _of_source(recipe: Recipe, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set that its normalization set aside."""
    examples, raw = recipe.examples(dataset), recipe.raw(dataset)
    rows = list(_rows(examples))
    if not rows:
        return
    asked = recorded_manifest(examples)["asked"]
    files = raw_files(store().fetch(raw), tuple(asked["files"]), dataset.name)
    details: dict[str, dict[int, str]] = {}
    for path in files:
        reasons = {row["row"] + 1: row["reason"] for row in rows if row["file"] == path.name}
        columns = RowFile(path, FORMATS[asked["format"]], asked["columns"]).columns
        details[path.name] = row_details(path, columns, reasons)
    for row in rows:
        yield _described(row, dataset.name, _shown(raw, row["file"]), details.get(row["file"], {}))


def _shown(raw: Artifact, file: str) -> str:
    """What the owner of a data set calls a file of it."""
    return source_name(raw.details(), file) or file


def _rows(artifact: Artifact) -> Iterator[dict[str, Any]]:
    file: Path = store().fetch(artifact).path / DROPPED
    for table in stored_examples(file):
        yield from table.to_pylist()


def _described(
    row: dict[str, Any], name: str, file: str | None = None, details: dict[int, str] | None = None
) -> dict[str, Any]:
    """A stored row as it is printed. Rows without any text share one id, which says nothing."""
    place: dict[str, Any] = {"dataset": name}
    if row["file"] is not None:
        place |= {"file": file or row["file"], "row": row["row"] + 1}
    texts = {key: row[key] for key in _TEXTS if row[key]}
    detail = (details or {}).get(row["row"] + 1)
    return {
        **place,
        "reason": f"{row['reason']} ({detail})" if detail else row["reason"],
        **texts,
        **({"id": row["id"]} if texts else {}),
    }

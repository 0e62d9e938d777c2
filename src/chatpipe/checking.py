"""Checks before anything is downloaded: row files row by row, model directories, disk space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc

from chatpipe.artifacts import home
from chatpipe.config import Dataset, Variant
from chatpipe.data import FORMATS
from chatpipe.data.reading import READ_REASON, SUFFIXES, RowFile, read_rows
from chatpipe.errors import ConfigError, DataError, SourceError
from chatpipe.sources import (
    WHEEL_MODELS,
    check_model_directory,
    local_path,
    looks_like_hub_id,
    matching,
)
from chatpipe.tracking import missing

SHOWN = 20  # bad rows that are named one by one; the rest is counted
READ_WHOLE_BYTES = 64 * 2**20
FREE_BYTES = 2 * 2**30  # the embedded study's artifacts need 0.6 GB, its checkpoints as much


def check_variant(variant: Variant) -> None:
    """ConfigError with every fault that local files and the disk show, before any download."""
    faults = [*_base_faults(variant), *_disk_faults(), *_tracking_faults(variant)]
    for dataset in variant.datasets:
        root = local_path(dataset.path or dataset.repo)
        key = f"datasets.{dataset.name}"
        if root is None:
            if not looks_like_hub_id(dataset.repo or ""):
                faults.append(f"{key}.repo: {dataset.repo} is neither a directory nor a hub id.")
            continue
        faults += _dataset_faults(root, variant, dataset.name)
    if faults:
        raise ConfigError([f"{variant.name}: {fault}" for fault in faults])


def row_faults(path: Path, format_name: str, columns: dict[str, str]) -> list[str]:
    """One sentence for every row of the file that cannot be used, at most 20 and a count."""
    try:
        row_format = FORMATS[format_name]
        rows = read_rows(path, row_format, columns)
    except DataError as error:
        return [str(error)]
    normalized = row_format.normalize(rows.select(list(row_format.columns)))
    reasons = pc.coalesce(rows[READ_REASON], normalized["reason"]).to_pylist()
    bad = [(number, reason) for number, reason in enumerate(reasons, 1) if reason]
    faults = [f"{path}: row {number}: {reason}." for number, reason in bad[:SHOWN]]
    if len(bad) > SHOWN:
        faults.append(f"{path}: {len(bad) - SHOWN} more of {len(reasons)} rows are bad.")
    if not reasons:
        faults.append(f"{path}: has no rows.")
    return faults


def format_of(path: Path) -> str:
    """The format whose required columns the file has; ConfigError says what the first needs."""
    if path.stat().st_size == 0:
        raise ConfigError([f"{path}: the file is empty."])
    needs = []
    for name, row_format in FORMATS.items():
        try:
            rows = read_rows(path, row_format, {})
        except DataError as error:
            needs.append(str(error))
            continue
        if rows.num_rows and pc.any(pc.is_null(rows[READ_REASON])).as_py():
            return name
    raise ConfigError(
        [needs[0] if needs else f"{path}: no row has the layout of {', '.join(FORMATS)}."]
    )


def _dataset_faults(root: Path, variant: Variant, name: str) -> Iterator[str]:
    dataset = next(dataset for dataset in variant.datasets if dataset.name == name)
    try:
        found = matching(root, dataset.files, f"datasets.{name}")
    except SourceError as error:
        yield str(error)
        return
    for path in found:
        if path.suffix not in SUFFIXES:
            yield f"{path}: a row file ends in {', '.join(SUFFIXES)}; rename or convert it."
        elif path.stat().st_size == 0:
            yield f"{path}: the file is empty."
        else:
            yield from _layout_faults(path, dataset)


def _layout_faults(path: Path, dataset: Dataset) -> Iterator[str]:
    """By the file's first rows; a `.json` file, which is read whole, only where it is small."""
    if path.suffix == ".json" and path.stat().st_size > READ_WHOLE_BYTES:
        return
    rows = RowFile(path, FORMATS[dataset.format], dataset.columns)
    try:
        first = next(rows.parts(), None)
        if first is None or not first().num_rows:
            yield f"{path}: has no rows."
        rows.check()
    except DataError as error:
        yield str(error)


def rows_set_aside(variant: Variant) -> Iterator[str]:
    """A sentence for every row of the variant's local files that a run would set aside."""
    for dataset in variant.datasets:
        root = local_path(dataset.path or dataset.repo)
        if root is not None:
            for path in matching(root, dataset.files, f"datasets.{dataset.name}"):
                yield from row_faults(path, dataset.format, dataset.columns)


def _base_faults(variant: Variant) -> Iterator[str]:
    repo = variant.base_model.repo
    local = local_path(repo)
    if repo in WHEEL_MODELS:
        return
    if local is not None:
        try:
            check_model_directory(local)
        except SourceError as error:
            yield f"base_model.repo: {error}"
    elif not looks_like_hub_id(repo):
        yield f"base_model.repo: {repo} is neither a directory nor a hub id like owner/name."


def _tracking_faults(variant: Variant) -> list[str]:
    sentence = missing(variant.tracking)
    return [sentence] if sentence else []


def _disk_faults() -> Iterator[str]:
    root = home()
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < FREE_BYTES:
        yield (
            f"{root}: {free / 2**30:.1f} GiB are free, {FREE_BYTES / 2**30:.0f} GiB are needed; "
            "make room or set CHATPIPE_HOME to another disk."
        )

"""Checks before anything is downloaded: row files row by row, model directories, disk space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
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
        faults += _dataset_faults(root, dataset)
    if faults:
        raise ConfigError([f"{variant.name}: {fault}" for fault in faults])


@dataclass
class Checked:
    """How many rows were read and cannot be used, and the first of these: (number, reason)."""

    rows: int = 0
    bad: int = 0
    shown: list[tuple[int, str]] = field(default_factory=list)


def row_faults(path: Path, format_name: str, columns: dict[str, str]) -> list[str]:
    """One sentence for every row of the file that cannot be used, at most 20 and a count."""
    try:
        found = checked_rows(path, format_name, columns)
    except DataError as error:
        return [str(error)]
    return [f"{path}: has no rows."] if not found.rows else _in_sentences(path, found)


def checked_rows(path: Path, format_name: str, columns: dict[str, str]) -> Checked:
    """Every row, part by part; DataError where the file as a whole cannot be read."""
    row_format = FORMATS[format_name]
    file = RowFile(path, row_format, columns)
    found = Checked()
    for part in file.parts():
        rows = part()
        normalized = row_format.normalize(rows.select(list(row_format.columns)))
        reasons = pc.coalesce(rows[READ_REASON], normalized["reason"])
        bad = np.flatnonzero(pc.is_valid(reasons))
        for place in bad[: SHOWN - len(found.shown)]:
            found.shown.append((found.rows + int(place) + 1, reasons[int(place)].as_py()))
        found.rows += rows.num_rows
        found.bad += len(bad)
    file.check()
    return found


def unusable_rows(variants: Sequence[Variant]) -> list[str]:
    """The rows of the variants' local files that a run sets aside because they cannot be read or
    used (it finds duplicates, too). ConfigError for files that cannot be read, and for data sets
    of which nothing is left."""
    said, faults = [], []
    for dataset in {d.model_dump_json(): d for v in variants for d in v.datasets}.values():
        root = local_path(dataset.path or dataset.repo)
        if root is None:
            continue
        key = f"datasets.{dataset.name}"
        files = {path: Checked() for path in matching(root, dataset.files, key)}
        for path in files:
            try:
                files[path] = checked_rows(path, dataset.format, dataset.columns)
            except DataError as error:
                faults.append(str(error))
            said += _in_sentences(path, files[path])
        rows = sum(found.rows for found in files.values())
        if rows == sum(found.bad for found in files.values()) and not faults:
            faults += [*said, f"{key}: none of {rows:,} rows can be used."]
    if faults:
        raise ConfigError(faults)
    return said


def _in_sentences(path: Path, found: Checked) -> list[str]:
    said = [f"{path}: row {number}: {reason}." for number, reason in found.shown]
    if found.bad > len(found.shown):
        said.append(
            f"{path}: {found.bad - len(found.shown):,} more of {found.rows:,} rows are bad."
        )
    return said


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


def _dataset_faults(root: Path, dataset: Dataset) -> Iterator[str]:
    try:
        found = matching(root, dataset.files, f"datasets.{dataset.name}")
    except SourceError as error:
        yield str(error)
        return
    blank = True
    for path in found:
        try:
            blank = not _has_rows(path, dataset) and blank
        except DataError as error:
            blank = False
            yield str(error)
    if blank:
        yield f"{root}: has no rows."


def _has_rows(path: Path, dataset: Dataset) -> bool:
    """By as many of the file's first parts as it takes; a large `.json` file, which would be read
    whole, is taken to have some. DataError where it cannot be read or lacks a column."""
    if path.suffix in SUFFIXES and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    if path.suffix == ".json" and path.stat().st_size > READ_WHOLE_BYTES:
        return True
    file = RowFile(path, FORMATS[dataset.format], dataset.columns)
    some = False
    for part in file.parts():
        some = part().num_rows > 0 or some
        if some and not file.missing():
            return True
    file.check()
    return some


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

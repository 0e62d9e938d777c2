"""Checks of local files and disks before anything is downloaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from chatpipe.config.schema import Dataset, Variant
from chatpipe.data.catalog import DATASETS
from chatpipe.data.detection import definite_format
from chatpipe.data.folders import row_files
from chatpipe.data.opening import kind_of
from chatpipe.data.reading import RowFile
from chatpipe.errors import ConfigError, DataError, SourceError
from chatpipe.formats.registry import FORMATS
from chatpipe.harness.fetch_task import missing_extra
from chatpipe.sources.local_paths import local_path, looks_like_hub_id, source_directories
from chatpipe.sources.model_directory import check_model_directory
from chatpipe.sources.saved_rows import is_saved, rows_request
from chatpipe.sources.wheel import WHEEL_MODELS
from chatpipe.store.paths import home
from chatpipe.training.tracking import missing

NO_REVISION = "is no repository of the hub, and has no revisions; leave it out."
DEFAULT_FILES = Dataset.model_fields["files"].default


def check_variant(variant: Variant) -> None:
    """Raise ConfigError with every fault of the variant's local files and directories."""
    if faults := variant_faults(variant):
        raise ConfigError([f"{variant.name}: {fault}" for fault in faults])


def variant_faults(variant: Variant) -> list[str]:
    """Return every fault of the variant's local files and directories."""
    faults = [*_base_faults(variant), *_home_faults(variant), *_missing_extras(variant)]
    for dataset in variant.read_datasets:
        root = local_path(dataset.path or dataset.repo)
        key = f"datasets.{dataset.name}"
        faults += _unused_settings(dataset, root)
        if root is None:
            if not looks_like_hub_id(dataset.repo or ""):
                faults.append(f"{key}.repo: {dataset.repo} is neither a directory nor a hub id.")
            elif hint := _meant_name(dataset.repo or "", [*DATASETS]):
                faults.append(f"{key}.repo: there is no {dataset.repo}; {hint}")
            continue
        is_heldout = dataset == variant.heldout
        for fault in _dataset_faults(root, dataset):
            faults.append(f"heldout: {fault}" if is_heldout else fault)
    return faults


def _unused_settings(dataset: Dataset, root: Path | None) -> Iterator[str]:
    """Yield a fault for each setting that a data set's source does not use."""
    key = f"datasets.{dataset.name}"
    source = dataset.path or dataset.repo
    if dataset.path or root is not None:
        if dataset.revision is not None:
            yield f"{key}.revision: {source} {NO_REVISION}"
        if dataset.fallbacks:
            yield (
                f"{key}.fallbacks: {source} is on this machine, and nothing is read in its place; "
                "leave them out."
            )
    if root is not None and root.is_file() and dataset.files != DEFAULT_FILES:
        yield f"{key}.files: {source} is one file, all of which is read; leave it out."


def _dataset_faults(root: Path, dataset: Dataset) -> Iterator[str]:
    if is_saved(dataset) or dataset.split or dataset.config:
        try:
            rows_request(dataset)
        except SourceError as error:
            yield f"datasets.{dataset.name}: {error}"
        return
    try:
        files = row_files(root, dataset.files, f"datasets.{dataset.name}").files
    except SourceError as error:
        yield str(error)
        return
    blank = True
    try:
        row_format = definite_format(dataset.format, files, dataset.columns)
    except DataError as error:
        yield str(error)
        return
    for path in files:
        try:
            blank = not _has_rows(path, row_format, dataset.columns) and blank
        except DataError as error:
            blank = False
            yield str(error)
    if blank:
        yield f"{root}: has no rows."


def _has_rows(path: Path, row_format: str, columns: dict[str, str]) -> bool:
    """Return whether the file has rows, from as few parts as possible. DataError if it cannot
    be read or lacks a column."""
    if kind_of(path) and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    file = RowFile(path, FORMATS[row_format], columns)
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
    if variant.base_model.revision is not None and (repo in WHEEL_MODELS or local is not None):
        yield f"base_model.revision: {repo} {NO_REVISION}"
    if repo in WHEEL_MODELS:
        return
    if local is not None:
        try:
            check_model_directory(local)
        except SourceError as error:
            yield f"base_model.repo: {error}"
    elif not looks_like_hub_id(repo):
        yield f"base_model.repo: {repo} is neither a directory nor a hub id like owner/name."
    elif hint := _meant_name(repo, [*WHEEL_MODELS]):
        yield f"base_model.repo: there is no {repo}; {hint}"


def _meant_name(repo: str, names: Sequence[str]) -> str | None:
    """Return 'did you mean …?' for what is almost one of these names, or the beginning of one, and
    has no owner, as repositories of the hub have but for a few old ones."""
    if "/" in repo or repo in names:
        return None
    longer = [name for name in names if len(repo) > 4 and name.startswith(repo.lower())]
    close = longer or difflib.get_close_matches(repo, names, 1, cutoff=0.85)
    return f"did you mean {close[0]}?" if close else None


def _missing_extras(variant: Variant) -> list[str]:
    sentences = (missing(variant.tracking), missing_extra(variant.evaluation.tasks))
    return [sentence for sentence in sentences if sentence]


def _home_faults(variant: Variant) -> Iterator[str]:
    for directory in source_directories(variant):
        if home().resolve().is_relative_to(directory):
            yield (
                f"{directory}: is a source, where nothing may be written, and CHATPIPE_HOME "
                f"({home()}) lies in it; set CHATPIPE_HOME to a place outside of it."
            )

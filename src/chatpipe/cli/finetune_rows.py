"""The rows that `chatpipe finetune` is given: a file, a saved directory or a hub data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatpipe.config.schema import AUTO, Dataset
from chatpipe.data.normalize import raw_files, source_name
from chatpipe.data.opening import kind_of
from chatpipe.errors import ConfigError
from chatpipe.planning.row_checks import format_of, no_file, row_faults
from chatpipe.sources.local_paths import looks_like_hub_id
from chatpipe.sources.saved_rows import is_saved_directory
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder


def source_settings(given: str, config: str | None, split: str | None) -> dict[str, Any]:
    """Return the source as settings of a data set; ConfigError where there is none."""
    path = Path(given)
    named = {"config": config, "split": split}
    chosen = {key: value for key, value in named.items() if value is not None}
    if path.is_file():
        if chosen:
            raise ConfigError(
                [f"--{next(iter(chosen))}: {path} is a file, all of which is read; leave it out."]
            )
        return {"path": str(path.absolute())}
    if path.is_dir() and is_saved_directory(path):
        return {"path": str(path.absolute()), **chosen}
    if path.exists() or path.is_symlink() or kind_of(path) or not looks_like_hub_id(given):
        raise ConfigError([f"--dataset {path}: {no_file(path)}."])
    return {"repo": given, **chosen}


def check_rows_of(dataset: Dataset, drop_bad_rows: bool) -> None:
    """Fetch the rows; raise ConfigError for those that cannot be used, or if nothing reads them."""
    raw = Recipe([], StoreBuilder()).raw(dataset)
    details = raw.details()
    faults: list[str] = []
    for file in raw_files(raw, dataset.files, dataset.name):
        shown = source_name(details, file.name)
        try:
            is_auto = dataset.format == AUTO
            row_format = format_of(file, dataset.columns) if is_auto else dataset.format
            file_faults = (
                []
                if drop_bad_rows
                else row_faults(file, row_format, dataset.columns, dataset.turns)
            )
        except ConfigError as error:
            file_faults = error.faults
        faults += [fault.replace(str(file), shown) for fault in file_faults]
    if faults:
        raise ConfigError([*faults, "Mend these rows, or add --drop-bad-rows."])

"""What the library `datasets` makes of a directory: its configs, its splits, and their rows.

The directory may be a hub repository's: its description and the names of its files are enough to
find the splits. Only builders of rows are used; loading scripts are not run.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from chatpipe.config.split_spec import split_names
from chatpipe.errors import SourceError

# The builders of `datasets` whose rows may be text; others read pictures, sounds or molecules.
BUILDERS = ("parquet", "json", "csv", "arrow")
CONVERTED = "refs/convert/parquet"
# The files of a repository that say which configs and splits it has.
DESCRIPTIONS = ("README.md", ".huggingface.yaml", "dataset_infos.json")


class LoadedSplits(NamedTuple):
    """A config and its splits: name → its files, by their paths in the directory."""

    config: str
    files: dict[str, list[str]]


def find_splits(folder: Path, config: str | None, source: str) -> LoadedSplits:
    """Return the splits of a config; the only or default one where none is named.

    Args:
        folder: A directory of the layout of a hub repository; data files may be empty.
        config: The config's name.
        source: What a sentence calls the data set.
    """
    with _in_a_sentence(folder, source):
        splits = _splits(folder, _config_name(folder, config, source), source)
    if empty := [split for split, names in splits.files.items() if not names]:
        raise SourceError(
            f"{source}: the config {splits.config} has no files for the split {', '.join(empty)}; "
            "name another config, or its files under `files`."
        )
    return splits


def every_config(folder: Path, source: str) -> Iterator[LoadedSplits]:
    """Yield the splits of every config, the default one first."""
    from datasets import get_dataset_config_names, get_dataset_default_config_name

    with _in_a_sentence(folder, source):
        default = get_dataset_default_config_name(str(folder))
        names = dict.fromkeys([default, *get_dataset_config_names(str(folder))])
        for name in names:
            if name is not None:
                yield _splits(folder, name, source)


def _splits(folder: Path, config: str, source: str) -> LoadedSplits:
    root = folder.resolve()
    with tempfile.TemporaryDirectory() as cache:
        builder = _builder(folder, config, Path(cache), source)
    files = {
        str(split): [Path(file).relative_to(root).as_posix() for file in data_files]
        for split, data_files in (builder.config.data_files or {}).items()
    }
    return LoadedSplits(builder.config.name, files)


def write_rows(
    folder: Path, config: str, spec: str, into: Path, scratch: Path, source: str
) -> tuple[Path, int]:
    """Write the rows of the splits as one file in `into`; return it and how many there are.

    Args:
        folder: The directory; of other splits, names without content are enough.
        config: A config's name, from `find_splits`.
        spec: Splits as `datasets` writes them.
        into: Where the file is written.
        scratch: An empty directory for copies that `datasets` makes.
        source: What a sentence calls the data set.
    """
    with _in_a_sentence(folder, source):
        builder = _builder(folder, config, scratch, source)
        splits = builder.config.data_files
        builder.config.data_files = type(splits)({name: splits[name] for name in split_names(spec)})
        builder.download_and_prepare(verification_mode="no_checks")
        rows = builder.as_dataset(split=spec)
    return save_rows(rows, spec, into, source), len(rows)


def saved_splits(folders: Mapping[str, Path], source: str) -> dict[str, Any]:
    """Return the splits that `save_to_disk` wrote to these folders, as `datasets` loads them."""
    from datasets import Dataset

    with _in_a_sentence(None, source):
        return {name: Dataset.load_from_disk(str(folder)) for name, folder in folders.items()}


def write_saved_rows(tables: Mapping[str, Any], spec: str, into: Path, source: str) -> int:
    """Write the rows of splits that are loaded as one file in `into`; return how many there are."""
    from datasets import ReadInstruction, concatenate_datasets, disable_progress_bars

    disable_progress_bars()
    with _in_a_sentence(None, source):
        lengths = {name: len(table) for name, table in tables.items()}
        parts = [
            tables[part.splitname].select(range(part.from_, part.to))
            for part in ReadInstruction.from_spec(spec).to_absolute(lengths)
        ]
        rows = concatenate_datasets(parts)
    save_rows(rows, spec, into, source)
    return len(rows)


def save_rows(rows: Any, spec: str, into: Path, source: str) -> Path:
    """Write rows of `datasets` as Parquet, or as JSON Lines where a value's type differs by row."""
    from datasets import Json

    if not len(rows):
        raise SourceError(f"{source}: the split {spec} has no rows.")
    into.mkdir(parents=True, exist_ok=True)
    name = "+".join(split_names(spec))
    if _has(rows.features, Json):
        path = into / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        return path
    path = into / f"{name}.parquet"
    rows.to_parquet(path)
    return path


def _builder(folder: Path, config: str, cache: Path, source: str) -> Any:
    from datasets import disable_progress_bars, load_dataset_builder

    disable_progress_bars()
    builder = load_dataset_builder(str(folder), name=config, cache_dir=str(cache))
    if builder.name not in BUILDERS:
        raise SourceError(
            f"{source}: its files are of the kind {builder.name}, not rows ({', '.join(BUILDERS)})."
        )
    return builder


def _config_name(folder: Path, config: str | None, source: str) -> str:
    """Return the config if there is one of that name; the only or default one if none is named."""
    from datasets import get_dataset_config_names, get_dataset_default_config_name

    names = get_dataset_config_names(str(folder))
    if config in names:
        return str(config)
    if config is not None:
        raise SourceError(f"{source}: has no config {config}; it has {', '.join(names)}.")
    default = get_dataset_default_config_name(str(folder))
    if default is None:
        raise SourceError(
            f"{source}: has the configs {', '.join(names)}; name one of them under `config`."
        )
    return str(default)


def _has(features: Any, kind: type) -> bool:
    """Return whether a feature of that kind is among the columns, at any depth."""
    if isinstance(features, kind):
        return True
    if isinstance(features, dict):
        return any(_has(feature, kind) for feature in features.values())
    if isinstance(features, Sequence) and not isinstance(features, str):
        return any(_has(feature, kind) for feature in features)
    inner = getattr(features, "feature", None)
    return inner is not None and _has(inner, kind)


@contextmanager
def _in_a_sentence(folder: Path | None, source: str) -> Iterator[None]:
    """Raise what `datasets` says of a directory as one SourceError."""
    import yaml
    from datasets.exceptions import DatasetsError

    # A README.md without a description is one of the user's own; the hub's library warns of each.
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    try:
        yield
    except SourceError:
        raise
    except (
        *(DatasetsError, RuntimeError, ValueError, OSError, KeyError, TypeError),
        yaml.YAMLError,
    ) as error:
        if "scripts are no longer supported" in str(error):
            raise SourceError(
                f"{source}: has a loading script, which is not run; name the hub's conversion of "
                f"its rows with `revision: {CONVERTED}`, or another copy."
            ) from None
        reason = _reason(error)
        for path in (folder, folder.resolve()) if folder else ():
            reason = reason.replace(str(path), source)
        raise SourceError(f"{source}: cannot be read by datasets: {reason}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

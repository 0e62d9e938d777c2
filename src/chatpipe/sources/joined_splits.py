"""Refuses to read several splits of a data set as one, where nobody asked for that.

Without `split`, `config` and `files`, all row files of a repository or directory are read, but for
held-out ones. Where `datasets` knows that these are several splits or configs, one has to be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatpipe.data.columns import listed
from chatpipe.data.folders import NOT_ROWS, heldout_split
from chatpipe.data.opening import kind_of
from chatpipe.errors import SourceError
from chatpipe.sources.hub import fetch_descriptions, file_names
from chatpipe.sources.loaded_splits import DESCRIPTIONS, LoadedSplits, every_config
from chatpipe.sources.skeleton import skeleton


def refuse_joined_splits(repo: str, revision: str | None) -> None:
    """Raise SourceError if the files that are read by default are several splits or configs."""
    snapshot = fetch_descriptions(repo, revision, DESCRIPTIONS)
    names = file_names(snapshot, "dataset").names
    read = _read_by_default(names)
    if len(read) < 2:
        return
    with skeleton(snapshot, names, ()) as folder:
        configs = _configs(folder, repo, read)
    if configs:
        raise SourceError(_fault(repo, configs))


def refuse_joined_directory(root: Path, files: Sequence[Path]) -> None:
    """Raise SourceError if these files, which are read of a directory by default, are several
    splits or configs, by the directory's description or by their names."""
    read = {file.relative_to(root).as_posix() for file in files}
    configs = _configs(root, str(root), read) if len(read) > 1 else []
    if configs:
        splits = dict.fromkeys(name for config in configs for name in config.files)
        raise SourceError(
            f"{root}: has the splits {listed(splits)}, which are not joined by default; name the "
            "files to read under `files`, those of several splits to join them."
        )


def _configs(folder: Path, source: str, read: set[str]) -> list[LoadedSplits]:
    """Return the configs that `datasets` finds; none where the files that are read are all of one
    split, or where it does not know the layout."""
    configs: list[LoadedSplits] = []
    try:
        for config in every_config(folder, source):
            configs.append(config)
            if _is_one_split(read, config):
                return []
    except SourceError:
        return []
    assigned = {name for config in configs for files in config.files.values() for name in files}
    is_one = any(_is_one_split(read & assigned, config) for config in configs)
    return [] if is_one else configs


def _read_by_default(names: Sequence[str]) -> set[str]:
    rows = {
        name
        for name in names
        if kind_of(Path(name)) and not NOT_ROWS.fullmatch(name.rpartition("/")[2])
    }
    return {name for name in rows if not heldout_split(name)} or rows


def _is_one_split(read: set[str], config: LoadedSplits) -> bool:
    """Return whether the files are all of one split; no files are of every split."""
    return any(read <= set(files) for files in config.files.values())


def _fault(repo: str, configs: Sequence[LoadedSplits]) -> str:
    splits = {name: None for config in configs for name in config.files}
    if len(configs) == 1:
        return (
            f"{repo}: has the splits {listed(splits)}, which are not joined by default; name one "
            "under `split`, or several with a plus sign between them."
        )
    names = [config.config for config in configs]
    return (
        f"{repo}: has the configs {listed(names)} (splits {listed(splits)}), which are not joined "
        "by default; name one under `config`, and its split under `split`."
    )

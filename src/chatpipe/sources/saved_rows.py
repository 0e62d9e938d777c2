"""A directory that `save_to_disk` wrote: one split (a Dataset) or several (a DatasetDict)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.schema import Dataset
from chatpipe.config.split_spec import split_names
from chatpipe.data.folders import DEFAULT_PATTERNS, ROWS
from chatpipe.errors import SourceError
from chatpipe.sources.chosen_split import chosen_split
from chatpipe.sources.fetch import FetchDataset
from chatpipe.sources.loaded_splits import saved_splits, write_saved_rows
from chatpipe.sources.local_paths import content_of, local_path
from chatpipe.store.artifact import Request

INFO, STATE, SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
ONLY_SPLIT = "train"  # what `datasets` calls the split of a Dataset that has no name


class ReadSaved(Request):
    """The rows of a saved split, or of a part of it, as one file."""

    kind: ClassVar[str] = "raw"
    version: ClassVar[int] = 1
    hash_exclude: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str
    split: str
    left_out: dict[str, str]  # splits that are not read by default, and why
    content: str  # digest of the split's files: a changed file is another request

    @classmethod
    def of(cls, dataset: Dataset) -> ReadSaved:
        """Return the request for the rows; SourceError where there is no such split."""
        root = local_path(dataset.path or dataset.repo)
        if root is None:
            raise SourceError(f"data set {dataset.name}: {dataset.path} does not exist.")
        if dataset.config is not None:
            raise SourceError(f"{root}: was written by save_to_disk, and has no configs.")
        folders = split_folders(root)
        chosen = chosen_split(dataset.split, list(folders), str(root))
        return cls(
            path=str(root),
            split=chosen.spec,
            left_out=chosen.left_out,
            content=_content(root, chosen.spec),
        )

    def build(self, into: Path) -> dict[str, Any]:
        root = Path(self.path)
        folders = split_folders(root)
        tables = saved_splits({name: folders[name] for name in split_names(self.split)}, self.path)
        rows = write_saved_rows(tables, self.split, into / ROWS, self.path)
        if _content(root, self.split) != self.content:
            raise SourceError.changed(root)
        return {
            "source": "local",
            "path": self.path,
            "split": self.split,
            "rows": rows,
            **({"left_out": self.left_out} if self.left_out else {}),
        }


def is_saved(dataset: Dataset) -> bool:
    """Return whether the data set is a directory that `save_to_disk` wrote."""
    root = local_path(dataset.path or dataset.repo)
    return root is not None and dataset.files == DEFAULT_PATTERNS and is_saved_directory(root)


def is_saved_directory(root: Path) -> bool:
    """Return whether a directory has the descriptions that `save_to_disk` writes."""
    return (root / SPLITS).is_file() or ((root / STATE).is_file() and (root / INFO).is_file())


def rows_request(dataset: Dataset) -> FetchDataset | ReadSaved:
    """Return the request for the rows of a data set that is not named by a split of the hub."""
    return ReadSaved.of(dataset) if is_saved(dataset) else FetchDataset.of(dataset)


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split, by its name."""
    if (root / SPLITS).is_file():
        names = _described(root / SPLITS).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SourceError(f"{root / SPLITS}: names no splits; save the data set anew.")
        return {name: root / name for name in names}
    return {str(_described(root / STATE).get("_split") or ONLY_SPLIT): root}


def _content(root: Path, spec: str) -> str:
    """Name and SHA-256 of every file of the splits."""
    folders = split_folders(root)
    files = [file for name in split_names(spec) for file in _files(folders[name])]
    return content_of(root, files)


def _files(folder: Path) -> list[Path]:
    """Return the files of a split, as its description lists them."""
    try:
        names = [entry["filename"] for entry in _described(folder / STATE)["_data_files"]]
        files = [folder / INFO, folder / STATE, *(folder / str(name) for name in names)]
    except (KeyError, TypeError):
        raise SourceError(f"{folder / STATE}: lists no files; save the data set anew.") from None
    for file in files:
        if not file.is_file():
            raise SourceError(f"{file}: is missing; save the data set anew.")
    return files


def _described(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise SourceError(f"{path}: is not what save_to_disk writes; save the data set anew.")
    return content

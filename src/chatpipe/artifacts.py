"""Sealed artifact directories, the store that holds them, and the keys that name them.

An artifact is written under a temporary name, sealed by `artifact.json` (the digest of every
file) as its last act, and renamed into place: a directory without a seal is never an artifact.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from chatpipe.errors import ArtifactError

SEAL = "artifact.json"
# Notes for people: they carry times and names, so they are recorded but not part of the digest.
NOTES = frozenset({"README.md"})


class Artifact(BaseModel):
    """A reference to a sealed directory: what was asked (key) and what came out (digest)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    key: str
    digest: str

    @property
    def path(self) -> Path:
        """The directory, in the store of this process."""
        return store().path(self.kind, self.key)

    def details(self) -> dict[str, Any]:
        """What the step said of its product."""
        return dict(_read_seal(self.path)["details"])

    def size(self) -> int:
        """Bytes of all its files, by the seal."""
        return sum(int(file["size"]) for file in _read_seal(self.path)["files"].values())

    def lineage(self) -> list[dict[str, Any]]:
        """This artifact and all that it was made from, sources first: kind, key, digest, and
        what each step said of its product. An upstream artifact that was forgotten has no
        details any more."""
        found: dict[str, dict[str, Any]] = {}
        _trace(self, found)
        return list(found.values())


class Request(BaseModel):
    """What a step is asked for. Its fields, and nothing else, decide the artifact's key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    version: ClassVar[int]  # raised by hand when the step's product changes for the same request
    # Fields that say where or for whom, not what; they stay out of the key.
    unkeyed: ClassVar[frozenset[str]] = frozenset()

    def key(self) -> str:
        """Hex SHA-256 over kind, step version and the request; upstream artifacts count by
        what came out of them (kind and digest), not by how they were asked for."""
        fields = {name: _canonical(value) for name, value in self if name not in self.unkeyed}
        asked = {"kind": self.kind, "version": self.version, "fields": fields}
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def build(self, into: Path) -> dict[str, Any]:
        """Write the product into the empty directory `into`; return its details."""
        raise NotImplementedError


def _canonical(value: Any) -> Any:
    """A JSON form that is the same in every process; TypeError where there is none."""
    if isinstance(value, Artifact):
        return {"artifact": value.kind, "digest": value.digest}
    if isinstance(value, BaseModel):
        unkeyed: frozenset[str] = getattr(type(value), "unkeyed", frozenset())
        return {name: _canonical(item) for name, item in value if name not in unkeyed}
    if isinstance(value, dict):
        return {str(name): _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} has no stable form to be part of a key")


class Store:
    """All artifacts, as `<root>/<kind>/<key>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, kind: str, key: str) -> Path:
        """Where the artifact of that key is or would be."""
        return self.root / kind / key

    def find(self, kind: str, key: str, deep: bool = False) -> Artifact | None:
        """The whole artifact of that key, or None where it is missing, damaged or unsealed."""
        try:
            return verify(self.path(kind, key), deep)
        except ArtifactError:
            return None

    def all(self) -> Iterator[Path]:
        """Every sealed directory."""
        return (seal.parent for seal in sorted(self.root.glob(f"*/*/{SEAL}")))

    def obtain(
        self, request: Request, build: Callable[[Path], dict[str, Any]] | None = None
    ) -> Artifact:
        """The artifact that was asked for: found whole, or built by `build` (the request's own).

        Two callers at once build one artifact: the second waits for the first one's. A kill
        leaves no lock behind, because the kernel drops an flock with its process.
        """
        key = request.key()
        with self._locked(request.kind, key):
            found = self.find(request.kind, key)
            return found or self._build(request, key, build or request.build)

    def work_path(self, kind: str, key: str) -> Path:
        """A directory that outlives a crash of the step: checkpoints to resume from."""
        path = self.root / ".work" / f"{kind}-{key}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def forget(self, path: Path) -> None:
        """Remove one artifact directory; renamed first, so that no one sees half of it."""
        doomed = self.root / ".tmp" / uuid.uuid4().hex
        doomed.parent.mkdir(parents=True, exist_ok=True)
        path.rename(doomed)
        shutil.rmtree(doomed)

    def _build(
        self, request: Request, key: str, build: Callable[[Path], dict[str, Any]]
    ) -> Artifact:
        temporary = self.root / ".tmp" / f"{request.kind}-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        try:
            details = build(temporary)
            _seal(temporary, request, key, details)
            target = self.path(request.kind, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                self.forget(target)  # damaged, or find() would have taken it
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(self.root / ".work" / f"{request.kind}-{key}", ignore_errors=True)
        return verify(target)

    @contextmanager
    def _locked(self, kind: str, key: str) -> Iterator[None]:
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{kind}-{key}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def home() -> Path:
    """chatpipe's own directory: $CHATPIPE_HOME, or ./.chatpipe."""
    return Path(os.environ.get("CHATPIPE_HOME") or ".chatpipe").absolute()


def store() -> Store:
    """The store of this process."""
    return Store(home() / "store")


def verify(path: Path, deep: bool = False) -> Artifact:
    """The artifact at `path`, its files checked by size (or by SHA-256, with `deep`).

    Raises ArtifactError that names the first file that is missing or not as recorded.
    """
    seal = _read_seal(path)
    for name, recorded in seal["files"].items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{file}: recorded in {SEAL} but missing; forget it to rebuild.")
        size = file.stat().st_size
        if size != recorded["size"]:
            raise ArtifactError(f"{file}: {recorded['size']} bytes recorded, {size} found.")
        if deep and file_digest(file) != recorded["sha256"]:
            raise ArtifactError(f"{file}: content differs from the recorded SHA-256.")
    return Artifact(kind=seal["kind"], key=seal["key"], digest=seal["digest"])


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _trace(artifact: Artifact, found: dict[str, dict[str, Any]]) -> None:
    try:
        seal = _read_seal(artifact.path)
    except ArtifactError:
        seal = {"asked": {}, "details": None}
    for value in _references(seal["asked"]):
        _trace(value, found)
    found[f"{artifact.kind}/{artifact.key}"] = artifact.model_dump() | {"details": seal["details"]}


def _references(asked: Any) -> Iterator[Artifact]:
    """The artifacts that a recorded request names."""
    if isinstance(asked, dict) and set(asked) == set(Artifact.model_fields):
        yield Artifact.model_validate(asked)
    elif isinstance(asked, dict | list):
        for value in asked.values() if isinstance(asked, dict) else asked:
            yield from _references(value)


def _read_seal(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((path / SEAL).read_text("utf-8")))
    except (OSError, ValueError):
        raise ArtifactError(f"{path}: no whole artifact is there ({SEAL} is missing).") from None


def _seal(path: Path, request: Request, key: str, details: dict[str, Any]) -> None:
    """Write artifact.json: afterwards the directory is whole."""
    recorded = {
        str(file.relative_to(path)): {"size": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    content = {name: item["sha256"] for name, item in recorded.items() if name not in NOTES}
    text = json.dumps(content, sort_keys=True)
    seal = {
        "schema": 1,
        "kind": request.kind,
        "key": key,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "step_version": request.version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked": request.model_dump(mode="json"),
        "details": details,
        "files": recorded,
    }
    with (path / SEAL).open("w", encoding="utf-8") as file:
        json.dump(seal, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())

"""An artifact's reference, and the request that decides its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from chatpipe.errors import ArtifactError, SharedStoreError
from chatpipe.store.manifest import (
    read_manifest,
)
from chatpipe.store.paths import store_directory
from chatpipe.store.remote import shared_store


class Artifact(BaseModel):
    """A reference to a sealed directory: what was asked (key) and what came out (digest)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    key: str
    digest: str

    @property
    def path(self) -> Path:
        """The directory, in the store of this process."""
        return store_directory() / self.kind / self.key

    @classmethod
    def pending(cls, request: Request) -> Artifact:
        """Return the placeholder of an artifact that does not exist yet; it has no digest."""
        return cls(kind=request.kind, key=request.key(), digest="")

    @property
    def is_pending(self) -> bool:
        """Whether it is the placeholder of an artifact that does not exist yet."""
        return not self.digest

    def details(self) -> dict[str, Any]:
        """What the step said of its product, also where only the shared store has that; nothing of
        a placeholder."""
        if self.is_pending:
            return {}
        return dict(recorded_manifest(self)["details"])

    def size(self) -> int:
        """Bytes of all its files, by the seal."""
        return sum(int(file["size"]) for file in recorded_manifest(self)["files"].values())

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
    hash_exclude: ClassVar[frozenset[str]] = frozenset()
    # Fields that came later: with their default they stay out of the key, so that requests from
    # before have the key that they had. Sections of settings may name such fields, too.
    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset()
    oom_hint: ClassVar[str] = ""  # which settings to change where a GPU has too little

    def key(self) -> str:
        """Hex SHA-256 over kind, step version and the request; upstream artifacts count by
        what came out of them (kind and digest), not by how they were asked for."""
        fields = {name: _canonical(value) for name, value in _keyed_fields(self)}
        asked = {"kind": self.kind, "version": self.version, "fields": fields}
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def upstream(self) -> Iterator[Artifact]:
        """The artifacts that it is made from."""
        return references(self.model_dump(mode="json"))

    def build(self, into: Path) -> dict[str, Any]:
        """Write the product into the empty directory `into`; return its details."""
        raise NotImplementedError

    def check_rebuilt(self, before: dict[str, Any], now: dict[str, Any], into: Path) -> None:
        """Compare the seal of what was built in place of a damaged artifact with that one's seal;
        raise where the source itself is damaged."""


def class_path(request: Request) -> str:
    """The class of a request as `module:Class`, for a message to another process."""
    return f"{type(request).__module__}:{type(request).__qualname__}"


def request_class(path: str) -> type[Request]:
    """The class that `class_path` named.

    Raises ValueError for what is not a Request of chatpipe's own: a message names no other code.
    """
    module, _, name = path.partition(":")
    if not module.startswith("chatpipe."):
        raise ValueError(f"{path}: not a module of chatpipe")
    found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Request)):
        raise ValueError(f"{path}: not a request")
    return found


def _keyed_fields(model: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a request or a section that are a part of the key."""
    hash_exclude: frozenset[str] = getattr(type(model), "hash_exclude", frozenset())
    later: frozenset[str] = getattr(type(model), "hash_exclude_at_default", frozenset())
    for name, value in model:
        is_default = name in later and value == type(model).model_fields[name].default
        if name not in hash_exclude and not is_default:
            yield name, value


def _canonical(value: Any) -> Any:
    """A JSON form that is the same in every process; TypeError where there is none."""
    if isinstance(value, Artifact):
        return {"artifact": value.kind, "digest": value.digest}
    if isinstance(value, BaseModel):
        return {name: _canonical(item) for name, item in _keyed_fields(value)}
    if isinstance(value, dict):
        return {str(name): _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} has no stable form to be part of a key")


def recorded_manifest(artifact: Artifact) -> dict[str, Any]:
    """The manifest of that artifact: the local one, else the shared store's; nothing is fetched.

    Raises ArtifactError where there is neither.
    """
    local = readable_manifest(artifact.path)
    if local and local["digest"] == artifact.digest:
        return local
    shared = shared_manifest(artifact.kind, artifact.key)
    if shared and shared["digest"] == artifact.digest:
        return shared
    return local or read_manifest(artifact.path)


def readable_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of the artifact at `path`, damaged or not; None where it cannot be read."""
    try:
        return read_manifest(path)
    except ArtifactError:
        return None


def shared_manifest(kind: str, key: str) -> dict[str, Any] | None:
    """The manifest of an artifact that could be fetched from the shared store."""
    shared = shared_store()
    return shared.manifest(kind, key) if shared else None


def _trace(artifact: Artifact, found: dict[str, dict[str, Any]]) -> None:
    try:
        manifest = recorded_manifest(artifact)
    except (ArtifactError, SharedStoreError):  # what is wrong with the shared store, others say
        manifest = {"asked": {}, "details": None}
    for value in references(manifest["asked"]):
        _trace(value, found)
    found[f"{artifact.kind}/{artifact.key}"] = artifact.model_dump() | {
        "details": manifest["details"]
    }


def references(asked: Any) -> Iterator[Artifact]:
    """The artifacts that a recorded request names."""
    if isinstance(asked, dict) and set(asked) == set(Artifact.model_fields):
        yield Artifact.model_validate(asked)
    elif isinstance(asked, dict | list):
        for value in asked.values() if isinstance(asked, dict) else asked:
            yield from references(value)

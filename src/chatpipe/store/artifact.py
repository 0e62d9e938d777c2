"""An artifact's reference, and the request that decides its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
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
    """A reference to an artifact: the digest of its request (key) and of its files (digest)."""

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
        """Return the details that the step recorded; empty for a placeholder.

        An artifact that only the shared store has is not fetched.
        """
        if self.is_pending:
            return {}
        return dict(recorded_manifest(self)["details"])

    def size(self) -> int:
        """Return the bytes of all its files, as its manifest records them."""
        return sum(int(file["size"]) for file in recorded_manifest(self)["files"].values())

    def lineage(self) -> list[dict[str, Any]]:
        """Return this artifact and all that it was made from, sources first.

        Each has `kind`, `key`, `digest` and `details`; the details of one that was removed are
        None.
        """
        lineage: dict[str, dict[str, Any]] = {}
        _trace(self, lineage)
        return list(lineage.values())


class Request(BaseModel):
    """The request for an artifact. Its fields, and nothing else, decide the artifact's key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    version: ClassVar[int]  # raised by hand when the step's product changes for the same request
    # Fields that do not change the product, such as a path; they are not part of the key.
    hash_exclude: ClassVar[frozenset[str]] = frozenset()
    # Fields that came later: with their default they stay out of the key, so that requests from
    # before have the key that they had. Sections of settings may name such fields, too.
    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset()
    # Values that had another name: the key has that, by field. Sections may have such fields, too.
    hash_as: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}
    oom_hint: ClassVar[str] = ""  # which settings to change when GPU memory is exhausted

    def key(self) -> str:
        """Return the SHA-256 of kind, step version and fields, as 40 hex digits.

        Artifacts among the fields count by kind and digest, not by their own keys.
        """
        fields = {name: _canonical(value) for name, value in _keyed_fields(self)}
        content = {"kind": self.kind, "version": self.version, "fields": fields}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def upstream(self) -> Iterator[Artifact]:
        """Yield the artifacts that it is made from."""
        return references(self.model_dump(mode="json"))

    def build(self, into: Path) -> dict[str, Any]:
        """Write the product into the empty directory `into` and return its details."""
        raise NotImplementedError

    def check_rebuilt(self, before: dict[str, Any], now: dict[str, Any], into: Path) -> None:
        """Compare the manifests of a damaged artifact and of the one built to replace it.

        Args:
            before: The manifest of the damaged artifact.
            now: The manifest of the new one.
            into: The directory of the new one.

        Raises:
            ChatpipeError: The source itself is damaged.
        """


def class_path(request: Request) -> str:
    """Return the class of a request as `module:Class`, for a message to another process."""
    return f"{type(request).__module__}:{type(request).__qualname__}"


def request_class(path: str) -> type[Request]:
    """Return the class that `class_path` named.

    Raises:
        ValueError: It is not a Request in chatpipe, so a message cannot run other code.
    """
    module, _, name = path.partition(":")
    if not module.startswith("chatpipe."):
        raise ValueError(f"{path}: not a module of chatpipe")
    cls = getattr(import_module(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, Request)):
        raise ValueError(f"{path}: not a request")
    return cls


def _keyed_fields(model: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a request or a section that are a part of the key."""
    hash_exclude: frozenset[str] = getattr(type(model), "hash_exclude", frozenset())
    later: frozenset[str] = getattr(type(model), "hash_exclude_at_default", frozenset())
    renamed: Mapping[str, Mapping[Any, Any]] = getattr(type(model), "hash_as", {})
    for name, value in model:
        is_default = name in later and value == type(model).model_fields[name].default
        if name not in hash_exclude and not is_default:
            yield name, renamed[name].get(value, value) if name in renamed else value


def _canonical(value: Any) -> Any:
    """Return a JSON form that is the same in every process; TypeError if there is none."""
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
    """Return the manifest of an artifact, from this store or the shared one.

    Nothing is fetched.

    Raises:
        ArtifactError: Neither store has it.
    """
    local = readable_manifest(artifact.path)
    if local and local["digest"] == artifact.digest:
        return local
    shared = shared_manifest(artifact.kind, artifact.key)
    if shared and shared["digest"] == artifact.digest:
        return shared
    return local or read_manifest(artifact.path)


def readable_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of the artifact at `path`; None if it cannot be read."""
    try:
        return read_manifest(path)
    except ArtifactError:
        return None


def shared_manifest(kind: str, key: str) -> dict[str, Any] | None:
    """Return the shared store's manifest of an artifact; None if it has none."""
    shared = shared_store()
    return shared.manifest(kind, key) if shared else None


def _trace(artifact: Artifact, lineage: dict[str, dict[str, Any]]) -> None:
    try:
        manifest = recorded_manifest(artifact)
    except (
        ArtifactError,
        SharedStoreError,
    ):  # other code reports what is wrong with the shared store
        manifest = {"asked": {}, "details": None}
    for value in references(manifest["asked"]):
        _trace(value, lineage)
    lineage[f"{artifact.kind}/{artifact.key}"] = artifact.model_dump() | {
        "details": manifest["details"]
    }


def references(recorded: Any) -> Iterator[Artifact]:
    """Yield the artifacts that a recorded request names."""
    if isinstance(recorded, dict) and set(recorded) == set(Artifact.model_fields):
        yield Artifact.model_validate(recorded)
    elif isinstance(recorded, dict | list):
        for value in recorded.values() if isinstance(recorded, dict) else recorded:
            yield from references(value)

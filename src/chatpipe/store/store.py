"""Artifacts, the store that holds them, and the keys that name them.

An artifact is written into a temporary directory, its manifest last, and then renamed. A directory
without a manifest is not an artifact.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatpipe.errors import ArtifactError
from chatpipe.store.artifact import Artifact, Request, readable_manifest, shared_manifest
from chatpipe.store.disk_errors import disk_errors
from chatpipe.store.manifest import (
    MANIFEST,
    check_manifest,
    read_manifest,
    unexpected_file_fault,
    unexpected_files,
    write_manifest,
)
from chatpipe.store.paths import store_directory
from chatpipe.store.remote import SharedStore, shared_store
from chatpipe.store.unfinished import UnfinishedSteps
from chatpipe.utils.atomic_writes import sync
from chatpipe.utils.file_digests import FileDigests, file_digest

LOG = logging.getLogger(__name__)
_KEY = re.compile("[0-9a-f]{40}")


class Store:
    """All artifacts, as `<root>/<kind>/<key>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.unfinished = UnfinishedSteps(self.root)

    def path(self, kind: str, key: str) -> Path:
        """Return the directory of an artifact, which need not exist."""
        return self.root / kind / key

    def find(self, kind: str, key: str, deep: bool = False) -> Artifact | None:
        """Return the artifact of that key; None if it is missing, damaged or has no manifest.

        `deep` reads every file again, as in `verify`.
        """
        try:
            return self.check(kind, key, deep)
        except ArtifactError:
            return None

    def check(self, kind: str, key: str, deep: bool = False) -> Artifact:
        """Return the artifact of that key, as `find`.

        Raises:
            ArtifactError: It is missing or damaged; the message says how.
        """
        path = self.path(kind, key)
        with disk_errors(path):
            artifact = verify(path, deep)
        if (artifact.kind, artifact.key) != (kind, key):
            raise ArtifactError(f"{path}: holds another artifact, {artifact.kind}/{artifact.key}.")
        return artifact

    def lookup(self, request: Request) -> Artifact | None:
        """Return the artifact of a request if this store or the shared store has it.

        Nothing is built or fetched.
        """
        kind, key = request.kind, request.key()
        artifact = self.find(kind, key)
        manifest = None if artifact else shared_manifest(kind, key)
        return Artifact(kind=kind, key=key, digest=manifest["digest"]) if manifest else artifact

    def fetch(self, artifact: Artifact) -> Artifact:
        """Return the artifact of that kind and key, fetched from the shared store if needed.

        Raises:
            ArtifactError: Neither store has it.
        """
        kind, key = artifact.kind, artifact.key
        if local := self.find(kind, key):
            return local
        with disk_errors(self.root), self.unfinished.locked(kind, key):
            shared = shared_store()
            fetched = self.find(kind, key) or (shared and self._fetch(shared, kind, key))
        return fetched or self.check(kind, key)

    def all(self, kind: str = "[!.]*") -> Iterator[Path]:
        """Yield the directory of every artifact (of that kind)."""
        return (path for path in self.directories(kind) if (path / MANIFEST).exists())

    def directories(self, kind: str = "[!.]*") -> Iterator[Path]:
        """Yield the directories of artifacts (of that kind), with a manifest or without.

        A directory whose name is not a key, such as a copy, is left out.
        """
        paths = sorted(self.root.glob(f"{kind}/*"))
        return (path for path in paths if _KEY.fullmatch(path.name) and path.is_dir())

    def manifests(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the manifests of that kind; one that cannot be read is skipped with a warning."""
        for path in self.all(kind):
            try:
                yield read_manifest(path)
            except ArtifactError as error:
                LOG.warning("passed over: %s", error)

    def get_or_build(
        self,
        request: Request,
        build: Callable[[Path], dict[str, Any]] | None = None,
        wait: bool = True,
    ) -> Artifact:
        """Return the artifact of a request: the stored one, the shared store's, or a new one.

        If two processes need the same artifact, one builds it and the other waits. The lock is
        an flock, which the kernel releases when its process ends.

        Args:
            request: What the artifact is made of; decides its key.
            build: Writes the files into a directory and returns the details; `request.build`
                where left out.
            wait: Wait for a process that builds it; BlockingIOError without.
        """
        kind, key = request.kind, request.key()
        shared = shared_store()
        if shared is None and (artifact := self.find(kind, key)):
            return artifact  # no lock is needed, so a read-only store can be read
        with disk_errors(self.root), self.unfinished.locked(kind, key, wait):
            self._refuse_unexpected_files(kind, key)
            artifact = self.find(kind, key) or (shared and self._fetch(shared, kind, key)) or None
            if not artifact and shared:
                self._fetch_upstream(shared, request)
            artifact = artifact or self._build(request, key, build or request.build)
            return self._share(shared, artifact) if shared else artifact

    def shared(self, path: Path) -> bool:
        """Return whether the shared store, if there is one, has the artifact at `path` too.

        Nothing is remembered: another machine may have removed it and built another one.
        """
        shared = shared_store()
        if shared is None:
            return True
        manifest = shared.manifest(path.parent.name, path.name)
        return manifest is not None and manifest["digest"] == read_manifest(path)["digest"]

    def work_path(self, kind: str, key: str) -> Path:
        """Return a directory that is kept if the step fails: for checkpoints to resume from."""
        return self.unfinished.kept(kind, key)

    def remove_work(self, kind: str = "*", key: str = "*") -> list[str]:
        """Remove the work directories of unfinished steps; return their names.

        Raises ArtifactError where another process is building it.
        """
        return self.unfinished.remove_kept(kind, key)

    def idle_work(self) -> Iterator[Path]:
        """Yield the work directories of unfinished steps that no process is building.

        Each is locked while the caller has it.
        """
        return self.unfinished.idle()

    def forget(self, path: Path) -> None:
        """Remove one artifact, here and from the shared store."""
        shared = shared_store()
        if shared:
            shared.remove(path.parent.name, path.name)
        self.discard(path)

    def discard(self, path: Path) -> None:
        """Remove one artifact from this store only.

        It is renamed first, so that no process sees a part of it.
        """
        with disk_errors(path):
            discarded = self.root / ".tmp" / f"discarded-{uuid.uuid4().hex}"
            discarded.parent.mkdir(parents=True, exist_ok=True)
            path.rename(discarded)
            os.utime(discarded)
            self.digests.forget(path)
            shutil.rmtree(discarded)

    def _build(
        self, request: Request, key: str, build: Callable[[Path], dict[str, Any]]
    ) -> Artifact:
        self._check_upstream(request)
        replaced = readable_manifest(self.path(request.kind, key))
        with self.unfinished.temporary(request.kind, key) as temporary:
            details = build(temporary)
            facts = {
                "kind": request.kind,
                "key": key,
                "step_version": request.version,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "asked": request.model_dump(mode="json"),
                "details": details,
            }
            write_manifest(temporary, facts)
            if replaced is not None:
                request.check_rebuilt(replaced, read_manifest(temporary), temporary)
            artifact = self._rename_into_place(temporary, request.kind, key)
        self.unfinished.forget_kept(request.kind, key)
        return artifact

    def _check_upstream(self, request: Request) -> None:
        """Raise ArtifactError unless every artifact that the request uses is undamaged."""
        for upstream in request.upstream():
            name = f"{upstream.kind}/{upstream.key}"
            try:
                stored = self.check(upstream.kind, upstream.key)
            except ArtifactError as error:
                raise ArtifactError(f"{request.kind} is made from {name}: {error}") from None
            if stored != upstream:
                raise ArtifactError(
                    f"{request.kind} is made from {name}, which was made anew in the meantime and "
                    "is another one now; run the same command again."
                )

    def _refuse_unexpected_files(self, kind: str, key: str) -> None:
        """Raise ArtifactError if the artifact has a file that its manifest does not record.

        A library could read it unnoticed, and it would be lost when the artifact is built again.
        """
        manifest = readable_manifest(self.path(kind, key))
        for file in unexpected_files(self.path(kind, key), manifest) if manifest else ():
            raise ArtifactError(unexpected_file_fault(file))

    def _fetch(self, shared: SharedStore, kind: str, key: str) -> Artifact | None:
        with self.unfinished.temporary(kind, key) as temporary:
            if not shared.fetch(kind, key, temporary):
                return None
            return self._rename_into_place(temporary, kind, key)

    def _fetch_upstream(self, shared: SharedStore, request: Request) -> None:
        """Fetch the artifacts that the request uses, where only the shared store has them."""
        for upstream in request.upstream():
            kind, key = upstream.kind, upstream.key
            with self.unfinished.locked(kind, key):
                stored = self.find(kind, key)
                if stored != upstream:
                    stored = self._fetch(shared, kind, key) or stored
            if stored != upstream:
                state = "something else is" if stored else "nothing is"
                raise ArtifactError(
                    f"{kind}/{key}: {state} here and in {shared.address}; run anew."
                )

    def _share(self, shared: SharedStore, artifact: Artifact) -> Artifact:
        """Upload an artifact; return the one that was uploaded first, which all machines use."""
        kind, key = artifact.kind, artifact.key
        manifest = shared.manifest(kind, key)
        if manifest is None and not shared.offer(kind, key, self.path(kind, key)):
            manifest = shared.manifest(kind, key)
        if manifest is not None and manifest["digest"] != artifact.digest:
            return self._fetch(shared, kind, key) or artifact
        return artifact

    def _rename_into_place(self, temporary: Path, kind: str, key: str) -> Artifact:
        """Rename a finished directory to the path of its key, replacing one that exists."""
        target = self.path(kind, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self.discard(target)
        temporary.rename(target)
        sync(target.parent)
        manifest = read_manifest(target)
        return Artifact(kind=manifest["kind"], key=manifest["key"], digest=manifest["digest"])

    @property
    def digests(self) -> FileDigests:
        """The digests of files that this store remembers."""
        return _DIGESTS.setdefault(self.root, FileDigests(self.root / ".digests"))


_DIGESTS: dict[Path, FileDigests] = {}


def store() -> Store:
    """Return the store of this process."""
    return Store(store_directory())


def verify(path: Path, deep: bool = False) -> Artifact:
    """Check an artifact's files by size and SHA-256 and return its reference.

    Args:
        path: The artifact's directory.
        deep: Read every file, also a large one that has not changed since it was last read.

    Raises:
        ArtifactError: Names the first file that is missing or not as recorded.
    """
    manifest = check_manifest(path, file_digest if deep else store().digests.sha256)
    return Artifact(kind=manifest["kind"], key=manifest["key"], digest=manifest["digest"])

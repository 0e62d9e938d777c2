"""Artifacts, the store that holds them, and the keys that name them.

An artifact is written under a temporary name, sealed as its last act, and renamed into place: a
directory without a seal is never an artifact.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
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
from chatpipe.store.paths import WORK, store_directory
from chatpipe.store.remote import SharedStore, shared_store
from chatpipe.utils.atomic_writes import sync
from chatpipe.utils.file_digests import FileDigests, file_digest

LOG = logging.getLogger(__name__)
_KEY = re.compile("[0-9a-f]{40}")
LEFT_OVER_AFTER_S = 24 * 3600


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
            return self.check(kind, key, deep)
        except ArtifactError:
            return None

    def check(self, kind: str, key: str, deep: bool = False) -> Artifact:
        """As `find`, but ArtifactError says what is wrong with it."""
        path = self.path(kind, key)
        with disk_errors(path):
            found = verify(path, deep)
        if (found.kind, found.key) != (kind, key):
            raise ArtifactError(f"{path}: holds another artifact, {found.kind}/{found.key}.")
        return found

    def lookup(self, request: Request) -> Artifact | None:
        """What was made for that request, here or in the shared store; nothing is fetched."""
        kind, key = request.kind, request.key()
        found = self.find(kind, key)
        manifest = None if found else shared_manifest(kind, key)
        return Artifact(kind=kind, key=key, digest=manifest["digest"]) if manifest else found

    def fetch(self, artifact: Artifact) -> Artifact:
        """That artifact where it is here, else as the shared store has it; ArtifactError where
        neither does."""
        kind, key = artifact.kind, artifact.key
        if found := self.find(kind, key):
            return found
        with disk_errors(self.root), self._locked(kind, key):
            shared = shared_store()
            fetched = self.find(kind, key) or (shared and self._fetch(shared, kind, key))
        return fetched or self.check(kind, key)

    def all(self, kind: str = "[!.]*") -> Iterator[Path]:
        """Every sealed directory (of that kind)."""
        return (path for path in self.directories(kind) if (path / MANIFEST).exists())

    def directories(self, kind: str = "[!.]*") -> Iterator[Path]:
        """Where artifacts (of that kind) lie, sealed or not; a directory whose name is no key, as
        a copy that somebody made, is none of them."""
        paths = sorted(self.root.glob(f"{kind}/*"))
        return (path for path in paths if _KEY.fullmatch(path.name) and path.is_dir())

    def manifests(self, kind: str) -> Iterator[dict[str, Any]]:
        """The seals of that kind; one that cannot be read is passed over with a warning."""
        for path in self.all(kind):
            try:
                yield read_manifest(path)
            except ArtifactError as error:
                LOG.warning("passed over: %s", error)

    def get_or_build(
        self, request: Request, build: Callable[[Path], dict[str, Any]] | None = None
    ) -> Artifact:
        """The artifact that was asked for: found whole, fetched from the shared store, or built
        by `build` (the request's own).

        Two callers at once build one artifact: the second waits for the first one's. A kill
        leaves no lock behind, because the kernel drops an flock with its process.
        """
        kind, key = request.kind, request.key()
        shared = shared_store()
        if shared is None and (found := self.find(kind, key)):
            return found  # without a lock: a store that cannot be written to can be read
        with disk_errors(self.root), self._locked(kind, key):
            self._refuse_unexpected_files(kind, key)
            found = self.find(kind, key) or (shared and self._fetch(shared, kind, key)) or None
            if not found and shared:
                self._fetch_upstream(shared, request)
            made = found or self._build(request, key, build or request.build)
            return self._share(shared, made) if shared else made

    def shared(self, path: Path) -> bool:
        """Whether the shared store has the artifact at `path` too, or there is no such store. It
        is asked every time: another machine may have forgotten it and made another one."""
        shared = shared_store()
        if shared is None:
            return True
        manifest = shared.manifest(path.parent.name, path.name)
        return manifest is not None and manifest["digest"] == read_manifest(path)["digest"]

    def work_path(self, kind: str, key: str) -> Path:
        """A directory that outlives a crash of the step: checkpoints to resume from."""
        path = self.root / WORK / f"{kind}-{key}"
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def remove_work(self, kind: str = "*", key: str = "*") -> list[str]:
        """Remove what unfinished steps left behind (of that kind and key); return its names.

        Raises ArtifactError where another process is building it.
        """
        removed = []
        for path in sorted((self.root / WORK).glob(f"{kind}-{key}")):
            try:
                with disk_errors(path), self._lock(path.name, wait=False):
                    shutil.rmtree(path)
            except BlockingIOError:
                raise ArtifactError(
                    f"{path.name}: another process is building it; stop that one first."
                ) from None
            removed.append(f"{WORK}/{path.name}")
        return removed

    def idle_work(self) -> Iterator[Path]:
        """What unfinished steps left behind; what another process builds now is passed over, and
        none begins to while the caller looks at it."""
        for path in sorted((self.root / WORK).glob("*-*")):
            with ExitStack() as held:
                try:
                    held.enter_context(self._lock(path.name, wait=False))
                except BlockingIOError:
                    continue
                except OSError:  # a store that cannot be written to: nobody builds there
                    pass
                yield path

    def forget(self, path: Path) -> None:
        """Remove one artifact, here and from the shared store."""
        shared = shared_store()
        if shared:
            shared.remove(path.parent.name, path.name)
        self.discard(path)

    def discard(self, path: Path) -> None:
        """Remove one artifact from this store alone; renamed first, so that no one sees half of
        it."""
        with disk_errors(path):
            doomed = self.root / ".tmp" / f"discarded-{uuid.uuid4().hex}"
            doomed.parent.mkdir(parents=True, exist_ok=True)
            path.rename(doomed)
            os.utime(doomed)
            self.digests.forget(path)
            shutil.rmtree(doomed)

    def _build(
        self, request: Request, key: str, build: Callable[[Path], dict[str, Any]]
    ) -> Artifact:
        self._check_upstream(request)
        before = readable_manifest(self.path(request.kind, key))
        with self._temporary(request.kind, key) as temporary:
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
            if before is not None:
                request.check_rebuilt(before, read_manifest(temporary), temporary)
            made = self._place(temporary, request.kind, key)
        shutil.rmtree(self.root / WORK / f"{request.kind}-{key}", ignore_errors=True)
        return made

    def _check_upstream(self, request: Request) -> None:
        """ArtifactError unless all that the request is made from is here, whole to the byte."""
        for upstream in request.upstream():
            name = f"{upstream.kind}/{upstream.key}"
            try:
                found = self.check(upstream.kind, upstream.key)
            except ArtifactError as error:
                raise ArtifactError(f"{request.kind} is made from {name}: {error}") from None
            if found != upstream:
                raise ArtifactError(
                    f"{request.kind} is made from {name}, which was made anew in the meantime and "
                    "is another one now; run the same command again."
                )

    def _refuse_unexpected_files(self, kind: str, key: str) -> None:
        """ArtifactError where somebody put a file into that artifact: it would be used in silence,
        or go with the artifact when that is made anew."""
        manifest = readable_manifest(self.path(kind, key))
        for file in unexpected_files(self.path(kind, key), manifest) if manifest else ():
            raise ArtifactError(unexpected_file_fault(file))

    def _fetch(self, shared: SharedStore, kind: str, key: str) -> Artifact | None:
        with self._temporary(kind, key) as temporary:
            if not shared.fetch(kind, key, temporary):
                return None
            return self._place(temporary, kind, key)

    def _fetch_upstream(self, shared: SharedStore, request: Request) -> None:
        """Fetch what the request is made from, where another machine has made it (anew)."""
        for upstream in request.upstream():
            kind, key = upstream.kind, upstream.key
            with self._locked(kind, key):
                found = self.find(kind, key)
                if found != upstream:
                    found = self._fetch(shared, kind, key) or found
            if found != upstream:
                here = "something else is" if found else "nothing is"
                raise ArtifactError(f"{kind}/{key}: {here} here and in {shared.address}; run anew.")

    def _share(self, shared: SharedStore, made: Artifact) -> Artifact:
        """The artifact that all machines go on from: the one that was shared first."""
        kind, key = made.kind, made.key
        manifest = shared.manifest(kind, key)
        if manifest is None and not shared.offer(kind, key, self.path(kind, key)):
            manifest = shared.manifest(kind, key)
        if manifest is not None and manifest["digest"] != made.digest:
            return self._fetch(shared, kind, key) or made
        return made

    def _place(self, temporary: Path, kind: str, key: str) -> Artifact:
        """Rename a sealed directory to where it belongs; what is there already is replaced."""
        target = self.path(kind, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self.discard(target)
        temporary.rename(target)
        sync(target.parent)
        manifest = read_manifest(target)
        return Artifact(kind=manifest["kind"], key=manifest["key"], digest=manifest["digest"])

    @contextmanager
    def _temporary(self, kind: str, key: str) -> Iterator[Path]:
        """An empty directory in this store; gone afterwards, unless it was renamed. The caller
        holds the lock of that key: what an earlier build of it left behind is nobody's."""
        self._remove_leftovers()
        for path in (self.root / ".tmp").glob(f"{kind}-{key}-*"):
            shutil.rmtree(path, ignore_errors=True)
        temporary = self.root / ".tmp" / f"{kind}-{key}-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what killed builds left behind. Age alone does not tell: a training may last for
        days, but it holds its lock."""
        for path in (self.root / ".tmp").glob("*-*"):
            with suppress(FileNotFoundError):  # another process removes it
                is_ours = path.is_dir() and not path.is_symlink()
                if not is_ours or time.time() - path.stat().st_mtime < LEFT_OVER_AFTER_S:
                    continue
                with (
                    suppress(BlockingIOError),
                    self._lock(path.name.rpartition("-")[0], wait=False),
                ):
                    shutil.rmtree(path)

    def _locked(self, kind: str, key: str) -> AbstractContextManager[None]:
        return self._lock(f"{kind}-{key}", wait=True)

    @property
    def digests(self) -> FileDigests:
        """The digests of files, as this store remembers them."""
        return _DIGESTS.setdefault(self.root, FileDigests(self.root / ".digests"))

    @contextmanager
    def _lock(self, name: str, wait: bool) -> Iterator[None]:
        """BlockingIOError where another process has it and this one is not to wait."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield


_DIGESTS: dict[Path, FileDigests] = {}


def store() -> Store:
    """The store of this process."""
    return Store(store_directory())


def verify(path: Path, deep: bool = False) -> Artifact:
    """The artifact at `path`, its files checked by size and SHA-256. A large file that has not
    changed since it was last read is not read again, unless `deep`.

    Raises ArtifactError that names the first file that is missing or not as recorded.
    """
    manifest = check_manifest(path, file_digest if deep else store().digests.sha256)
    return Artifact(kind=manifest["kind"], key=manifest["key"], digest=manifest["digest"])

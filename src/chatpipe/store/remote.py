"""The shared store: an object store from which machines fetch each other's artifacts.

$CHATPIPE_SHARED_STORE is any address that fsspec knows (s3://bucket/folder, gs://…, a directory).
An artifact's files are uploaded under the digest of its manifest, and the manifest last. So an
artifact with a manifest is complete, even if two machines upload it at once or an upload stops.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chatpipe.errors import ArtifactError, ConfigError, SharedStoreError
from chatpipe.store.manifest import MANIFEST, check_manifest
from chatpipe.utils.user_paths import expanded

ADDRESS = "CHATPIPE_SHARED_STORE"


class SharedStore:
    """The artifacts at one address, as `<kind>/<key>/artifact.json` and
    `<kind>/<key>/<digest of the manifest>/<file>`."""

    def __init__(self, address: str) -> None:
        if urlsplit(address).password:
            raise ConfigError(
                [f"{ADDRESS}: holds a password; give it as the backend's own setting."]
            )
        self.address = address.rstrip("/")
        with self._in_a_sentence():
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(self.address)

    def manifest(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the manifest of the artifact of that key, or None if there is none."""
        content = self._manifest_bytes(kind, key)
        return None if content is None else dict(json.loads(content))

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Copy an artifact into an empty directory and check every byte.

        Returns:
            False if the shared store has no such artifact.

        Raises:
            ArtifactError: A file is not as the manifest records it.
        """
        manifest = self._manifest_bytes(kind, key)
        if manifest is None:
            return False
        source = self._content(kind, key, manifest)
        with self._in_a_sentence():
            for name in json.loads(manifest)["files"]:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{source}/{name}", str(into / name))
        (into / MANIFEST).write_bytes(manifest)
        try:
            check_manifest(into)
        except ArtifactError as error:
            address = f"{self.address}/{kind}/{key}"
            raise ArtifactError(f"{address} is damaged, remove it there: {error}") from None
        return True

    def offer(self, kind: str, key: str, path: Path) -> bool:
        """Upload the artifact in the directory `path`.

        Returns:
            False if another machine finished the upload of its own first; that one is kept.
        """
        manifest = (path / MANIFEST).read_bytes()
        target = self._content(kind, key, manifest)
        with self._in_a_sentence():
            for name in json.loads(manifest)["files"]:
                self._files.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str((path / name).resolve()), f"{target}/{name}")
        if self._put_manifest(kind, key, manifest):
            return True
        with self._in_a_sentence():
            if self._manifest_bytes(kind, key) != manifest:
                self._files.rm(target, recursive=True)
        return False

    def _put_manifest(self, kind: str, key: str, manifest: bytes) -> bool:
        """Upload the manifest unless one exists; return whether it was uploaded.

        S3 and GCS check and write in one operation; other backends look for the file first.
        """
        target = f"{self._root}/{kind}/{key}/{MANIFEST}"
        with self._in_a_sentence():
            self._files.invalidate_cache()
            try:
                self._files.pipe_file(target, manifest, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno != errno.ENOSYS:  # an S3 server without conditional writes
                    raise
                self._files.pipe_file(target, manifest)
        return True

    def remove(self, kind: str, key: str) -> None:
        """Remove an artifact, its manifest first."""
        directory = f"{self._root}/{kind}/{key}"
        with self._in_a_sentence():
            if self._files.exists(f"{directory}/{MANIFEST}"):
                self._files.rm_file(f"{directory}/{MANIFEST}")
                self._files.rm(directory, recursive=True)

    def _manifest_bytes(self, kind: str, key: str) -> bytes | None:
        with self._in_a_sentence():
            self._files.invalidate_cache()  # other machines write there too
            try:
                return bytes(self._files.cat_file(f"{self._root}/{kind}/{key}/{MANIFEST}"))
            except FileNotFoundError:
                return None

    def _content(self, kind: str, key: str, manifest: bytes) -> str:
        return f"{self._root}/{kind}/{key}/{hashlib.sha256(manifest).hexdigest()}"

    @contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        """Raise an error of ours for those of fsspec's backends: each has its own exceptions."""
        try:
            yield
        except (ImportError, ValueError) as error:
            raise ConfigError([f"{ADDRESS}={self.address}: {error}"]) from error
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise SharedStoreError(
                f"the shared store {self.address} did not do as asked ({reason}); what was made is "
                "whole in this machine's store, and the same command goes on from it."
            ) from error


def shared_store() -> SharedStore | None:
    """The shared store of this process, if there is one."""
    address = os.environ.get(ADDRESS)
    return SharedStore(_absolute(address)) if address else None


def _absolute(address: str) -> str:
    """A directory is the same one for every process, wherever that runs."""
    return address if "://" in address else str(expanded(address).absolute())

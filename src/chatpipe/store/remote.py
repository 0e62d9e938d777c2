"""An object store beside the local one: what one machine has made, the others fetch.

$CHATPIPE_SHARED_STORE is any address that fsspec knows (s3://bucket/folder, gs://…, a directory).
An artifact's files go up under the digest of its seal, the seal itself last: whoever finds a seal
finds all of its files, whatever two machines upload at once and wherever an upload was cut.
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
from chatpipe.store.manifest import SEAL, check_seal
from chatpipe.utils.user_paths import expanded

ADDRESS = "CHATPIPE_SHARED_STORE"


class SharedStore:
    """The artifacts at one address, as `<kind>/<key>/artifact.json` and
    `<kind>/<key>/<digest of the seal>/<file>`."""

    def __init__(self, address: str) -> None:
        if urlsplit(address).password:
            raise ConfigError(
                [f"{ADDRESS}: holds a password; give it as the backend's own setting."]
            )
        self.address = address.rstrip("/")
        with self._in_a_sentence():
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(self.address)

    def seal(self, kind: str, key: str) -> dict[str, Any] | None:
        """The seal of the artifact of that key, or None where there is none."""
        sealed = self._seal(kind, key)
        return None if sealed is None else dict(json.loads(sealed))

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Copy that artifact into the empty directory, every byte checked; False if none is
        there. ArtifactError where it is not what was sealed."""
        sealed = self._seal(kind, key)
        if sealed is None:
            return False
        source = self._content(kind, key, sealed)
        with self._in_a_sentence():
            for name in json.loads(sealed)["files"]:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{source}/{name}", str(into / name))
        (into / SEAL).write_bytes(sealed)
        try:
            check_seal(into)
        except ArtifactError as error:
            place = f"{self.address}/{kind}/{key}"
            raise ArtifactError(f"{place} is damaged, remove it there: {error}") from None
        return True

    def offer(self, kind: str, key: str, path: Path) -> bool:
        """Copy the sealed directory there; False where another machine has sealed its own before
        this one was up."""
        sealed = (path / SEAL).read_bytes()
        target = self._content(kind, key, sealed)
        with self._in_a_sentence():
            for name in json.loads(sealed)["files"]:
                self._files.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str((path / name).resolve()), f"{target}/{name}")
        if self._put_seal(kind, key, sealed):
            return True
        with self._in_a_sentence():
            if self._seal(kind, key) != sealed:
                self._files.rm(target, recursive=True)
        return False

    def _put_seal(self, kind: str, key: str, sealed: bytes) -> bool:
        """Whether the seal was put there; False where there was one. S3 and GCS decide that
        themselves; elsewhere, it is looked for right before."""
        place = f"{self._root}/{kind}/{key}/{SEAL}"
        with self._in_a_sentence():
            self._files.invalidate_cache()
            try:
                self._files.pipe_file(place, sealed, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno != errno.ENOSYS:  # an S3 server without conditional writes
                    raise
                self._files.pipe_file(place, sealed)
        return True

    def remove(self, kind: str, key: str) -> None:
        """Remove that artifact, its seal first."""
        place = f"{self._root}/{kind}/{key}"
        with self._in_a_sentence():
            if self._files.exists(f"{place}/{SEAL}"):
                self._files.rm_file(f"{place}/{SEAL}")
                self._files.rm(place, recursive=True)

    def _seal(self, kind: str, key: str) -> bytes | None:
        with self._in_a_sentence():
            self._files.invalidate_cache()  # other machines write there too
            try:
                return bytes(self._files.cat_file(f"{self._root}/{kind}/{key}/{SEAL}"))
            except FileNotFoundError:
                return None

    def _content(self, kind: str, key: str, sealed: bytes) -> str:
        return f"{self._root}/{kind}/{key}/{hashlib.sha256(sealed).hexdigest()}"

    @contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        """Every backend of fsspec fails with exceptions of its own."""
        try:
            yield
        except (ImportError, ValueError) as error:
            raise ConfigError([f"{ADDRESS}={self.address}: {error}"]) from error
        except Exception as error:
            said = str(error).partition("\n")[0] or type(error).__name__
            raise SharedStoreError(
                f"the shared store {self.address} did not do as asked ({said}); what was made is "
                "whole in this machine's store, and the same command goes on from it."
            ) from error


def shared_store() -> SharedStore | None:
    """The shared store of this process, if there is one."""
    address = os.environ.get(ADDRESS)
    return SharedStore(_absolute(address)) if address else None


def _absolute(address: str) -> str:
    """A directory is the same one for every process, wherever that runs."""
    return address if "://" in address else str(expanded(address).absolute())

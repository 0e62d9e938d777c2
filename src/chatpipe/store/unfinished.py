"""Steps that are not finished: their locks, and the directories that they write into."""

from __future__ import annotations

import fcntl
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from chatpipe.errors import ArtifactError
from chatpipe.store.disk_errors import disk_errors
from chatpipe.store.paths import WORK

LEFT_OVER_AFTER_S = 24 * 3600


class UnfinishedSteps:
    """The steps that are being built, or were, in the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def locked(self, kind: str, key: str, wait: bool = True) -> AbstractContextManager[None]:
        """Hold the lock of an artifact; BlockingIOError if another process has it and `wait` is
        false. It is an flock, which the kernel releases when its process ends."""
        return self._lock(f"{kind}-{key}", wait)

    @contextmanager
    def temporary(self, kind: str, key: str) -> Iterator[Path]:
        """Yield an empty directory in this store, removed afterwards unless it was renamed.

        The caller holds the lock of the key, so directories of earlier builds are removed too.
        """
        self._remove_leftovers()
        for path in (self.root / ".tmp").glob(f"{kind}-{key}-*"):
            shutil.rmtree(path, ignore_errors=True)
        temporary = self.root / ".tmp" / f"{kind}-{key}-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def kept(self, kind: str, key: str) -> Path:
        """Return a directory that is kept if the step fails: for checkpoints to resume from."""
        path = self.root / WORK / f"{kind}-{key}"
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def forget_kept(self, kind: str, key: str) -> None:
        """Remove what was kept of a step, which the caller has built and holds the lock of."""
        shutil.rmtree(self.root / WORK / f"{kind}-{key}", ignore_errors=True)

    def remove_kept(self, kind: str = "*", key: str = "*") -> list[str]:
        """Remove the kept directories of steps; return their names.

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

    def idle(self) -> Iterator[Path]:
        """Yield the kept directories of steps that no process is building.

        Each is locked while the caller has it.
        """
        for path in sorted((self.root / WORK).glob("*-*")):
            with ExitStack() as locks:
                try:
                    locks.enter_context(self._lock(path.name, wait=False))
                except BlockingIOError:
                    continue
                except OSError:  # a read-only store: no process builds there
                    pass
                yield path

    def _remove_leftovers(self) -> None:
        """Remove the temporary directories of builds that were killed.

        They are old and not locked; a training may last for days, but it holds its lock.
        """
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

    @contextmanager
    def _lock(self, name: str, wait: bool) -> Iterator[None]:
        """Hold a lock; BlockingIOError if another process has it and `wait` is false."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield

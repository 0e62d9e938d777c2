"""Checkpoints of a training: each has a manifest with the digests of its files.

The files are synced to disk, and the manifest is written last. Which checkpoint is the
newest is decided by step number: clocks may be set back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatpipe.errors import ArtifactError
from chatpipe.utils.atomic_writes import sync, write_atomically
from chatpipe.utils.file_digests import file_digest

LOG = logging.getLogger(__name__)
CHECKPOINT_MANIFEST = "checkpoint.json"
KEPT_CHECKPOINTS = 2
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the optimizer steps before it, and the seconds that they took."""

    path: Path
    step: int
    seconds: float
    setup: dict[str, Any] = field(default_factory=dict)  # libraries and processes that wrote it


def write_checkpoint_manifest(
    path: Path, seconds: float, setup: dict[str, Any] | None = None
) -> None:
    """Sync the files of a checkpoint to disk, then write its manifest.

    Args:
        path: The directory `checkpoint-STEP`, its files written.
        seconds: Training time until here, that before a resumption included.
        setup: The libraries and processes that wrote it.
    """
    (path / CHECKPOINT_MANIFEST).unlink(missing_ok=True)
    files = {}
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        sync(file)
        name = file.relative_to(path).as_posix()
        files[name] = {"size": file.stat().st_size, "sha256": file_digest(file)}
    content: dict[str, Any] = {"step": _step_of(path), "seconds": seconds, "files": files}
    content |= {"setup": setup} if setup else {}
    for directory in (item for item in [path, *path.rglob("*")] if item.is_dir()):
        sync(directory)
    manifest = json.dumps({**content, "digest": _digest(content)})
    write_atomically(path / CHECKPOINT_MANIFEST, manifest.encode())
    sync(path)
    sync(path.parent)


def read_checkpoint(path: Path) -> Checkpoint:
    """Check every file of a checkpoint by its digest.

    Raises:
        ArtifactError: Names the first file that is missing or not as recorded.
    """
    content = _read_manifest(path / CHECKPOINT_MANIFEST)
    for name, recorded in content["files"].items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{file}: is missing.")
        if file.stat().st_size != recorded["size"] or file_digest(file) != recorded["sha256"]:
            raise ArtifactError(f"{file}: is not as it was written.")
    if content["step"] != _step_of(path):
        raise ArtifactError(f"{path}: its manifest is of step {content['step']}.")
    return Checkpoint(path, content["step"], content["seconds"], content.get("setup", {}))


def newest_checkpoint(work: Path) -> Checkpoint | None:
    """The whole checkpoint of the highest step in a work directory, or None.

    Damaged ones above it are removed, with a warning each.
    """
    for path in _newest_first(work):
        try:
            return read_checkpoint(path)
        except (ArtifactError, OSError) as error:
            LOG.warning("%s is damaged and dropped: %s", path.name, error)
            remove_checkpoint(path)
    return None


def remove_old_checkpoints(work: Path, kept: int = KEPT_CHECKPOINTS) -> None:
    """Remove all but the `kept` checkpoints of the highest steps."""
    for path in _newest_first(work)[kept:]:
        remove_checkpoint(path)


def complete_checkpoints(work: Path) -> list[Path]:
    """The checkpoints of a work directory that were written to their end."""
    return [path for path in _newest_first(work) if (path / CHECKPOINT_MANIFEST).is_file()]


def _newest_first(work: Path) -> list[Path]:
    paths = [path for path in work.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
        digest = content.pop("digest")
    except FileNotFoundError:
        raise ArtifactError("it was not written to its end.") from None
    except (ValueError, AttributeError, TypeError, KeyError):
        raise ArtifactError(f"{file}: is not as it was written.") from None
    if digest != _digest(content):
        raise ArtifactError(f"{file}: is not as it was written.")
    return dict(content)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, its manifest first, so that a part of it is never read as one."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    (path / CHECKPOINT_MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)

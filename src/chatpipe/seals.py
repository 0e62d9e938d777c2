"""The seal of an artifact: `artifact.json`, the digest of every file, written as the last act."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from chatpipe.errors import ArtifactError

SEAL = "artifact.json"
# Notes for people: they carry times and names, so they are recorded but not part of the digest.
NOTES = frozenset({"README.md"})
SAID = {"kind", "key", "created", "asked", "details", "digest", "files"}  # by every seal


def write_seal(path: Path, facts: dict[str, Any]) -> None:
    """Seal the directory: afterwards it is whole. `facts` say what it is and was made from."""
    recorded = {
        str(file.relative_to(path)): {"size": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    content = {name: item["sha256"] for name, item in recorded.items() if name not in NOTES}
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    seal = {"schema": 1, **facts, "digest": digest, "files": recorded}
    with (path / SEAL).open("w", encoding="utf-8") as file:
        json.dump(seal, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def read_seal(path: Path) -> dict[str, Any]:
    """What the seal says; ArtifactError where there is none, or none that can be read."""
    try:
        seal = json.loads((path / SEAL).read_text("utf-8"))
    except OSError:
        raise ArtifactError(f"{path}: no whole artifact is there ({SEAL} is missing).") from None
    except ValueError:
        seal = None
    if not isinstance(seal, dict) or not seal.keys() >= SAID:
        raise ArtifactError(f"{path / SEAL}: is damaged; remove {path} to make it anew.")
    return seal


def check_seal(path: Path, deep: bool) -> dict[str, Any]:
    """The seal, its files checked by size (or by SHA-256, with `deep`).

    Raises ArtifactError that names the first file that is missing or not as recorded.
    """
    seal = read_seal(path)
    for name, recorded in seal["files"].items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{file}: recorded in {SEAL} but missing; forget it to rebuild.")
        size = file.stat().st_size
        if size != recorded["size"]:
            raise ArtifactError(f"{file}: {recorded['size']} bytes recorded, {size} found.")
        if deep and file_digest(file) != recorded["sha256"]:
            raise ArtifactError(f"{file}: content differs from the recorded SHA-256.")
    return seal


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

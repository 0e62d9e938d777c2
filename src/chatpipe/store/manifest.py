"""The seal of an artifact: `artifact.json`, the digest of every file, written as the last act."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chatpipe.errors import ArtifactError
from chatpipe.utils.atomic_writes import sync, write_atomically
from chatpipe.utils.file_digests import file_digest

SEAL = "artifact.json"
RECORD = "prefect-record"  # Prefect's, written into an artifact after it was sealed
# Notes for people: they carry times and names, so they are recorded but not part of the digest.
NOTES = frozenset({"README.md"})
# What is written into artifacts here: a source's file of that name is never linked into one.
OWN_NAMES = frozenset({SEAL, RECORD, *NOTES})
SAID = {"kind", "key", "created", "asked", "details", "digest", "files"}  # by every seal
SELF_DIGEST = "seal_digest"  # of all the rest; older seals have none
MENDING = "`chatpipe verify --mend` removes it"
REMEDY = f"the next run makes it anew, or {MENDING}."

DigestOf = Callable[[Path], str]


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
    seal = json.loads(json.dumps({"schema": 1, **facts, "digest": digest, "files": recorded}))
    seal[SELF_DIGEST] = _self_digest(seal)
    for file in path.rglob("*"):
        if not file.is_symlink():  # what is linked is another's
            sync(file)
    write_atomically(path / SEAL, json.dumps(seal, indent=1, ensure_ascii=False).encode())
    sync(path)


def read_seal(path: Path) -> dict[str, Any]:
    """What the seal says; ArtifactError where there is none, or none that can be read."""
    try:
        content = (path / SEAL).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path}: no whole artifact is there ({SEAL} is missing).") from None
    try:
        seal = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        seal = None
    if not isinstance(seal, dict) or not seal.keys() >= SAID or not _is_whole(seal):
        raise ArtifactError(f"{path / SEAL}: is damaged; {REMEDY}")
    return seal


def check_seal(path: Path, digest_of: DigestOf = file_digest) -> dict[str, Any]:
    """The seal, after every file was checked by size and SHA-256 (which `digest_of` may remember).

    Raises ArtifactError that names the first file that is missing, not as recorded, or unrecorded.
    """
    seal = read_seal(path)
    for fault in (*faults(path, seal, digest_of), *map(stranger_fault, strangers(path, seal))):
        raise ArtifactError(fault)
    return seal


def faults(path: Path, seal: dict[str, Any], digest_of: DigestOf = file_digest) -> Iterator[str]:
    """A sentence for every file that is missing, or not what the seal says of it."""
    for name, recorded in seal["files"].items():
        file = path / name
        if not file.is_file():
            gone = f"the linked file {file.readlink()} is gone" if file.is_symlink() else "missing"
            yield f"{file}: recorded in {SEAL} but {gone}; {REMEDY}"
        elif (size := file.stat().st_size) != recorded["size"]:
            sizes = f"{recorded['size']} bytes recorded, {size} found"
            yield f"{file}: {sizes}{_source(file)}; {REMEDY}"
        elif digest_of(file) != recorded["sha256"]:
            yield f"{file}: content differs from the recorded SHA-256{_source(file)}; {REMEDY}"


def strangers(path: Path, seal: dict[str, Any]) -> list[Path]:
    """Files that somebody put there after it was sealed: a library may read them. Hidden ones, as
    `.DS_Store`, are read by none."""
    own = {SEAL, RECORD, *seal["files"]}
    names = [file.relative_to(path) for file in path.rglob("*") if not file.is_dir()]
    shown = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return [path / name for name in sorted(shown) if str(name) not in own]


def stranger_fault(file: Path) -> str:
    """The sentence for such a file."""
    return f"{file}: was not there when {SEAL} was written; move it away, or {MENDING}."


def _source(file: Path) -> str:
    return f" (it is linked from {file.resolve()}, which changed)" if file.is_symlink() else ""


def _is_whole(seal: dict[str, Any]) -> bool:
    return SELF_DIGEST not in seal or seal[SELF_DIGEST] == _self_digest(seal)


def _self_digest(seal: dict[str, Any]) -> str:
    rest = {name: value for name, value in seal.items() if name != SELF_DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

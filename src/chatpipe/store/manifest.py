"""The manifest of an artifact, `artifact.json`: its request and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chatpipe.errors import ArtifactError
from chatpipe.utils.atomic_writes import sync, write_atomically
from chatpipe.utils.file_digests import file_digest

MANIFEST = "artifact.json"
RECORD = "prefect-record"  # Prefect's record, written into a finished artifact
# Notes for people: they carry times and names, so they are recorded but not part of the digest.
NOTES = frozenset({"README.md"})
# Names that chatpipe writes into artifacts; a source's file of such a name is not linked.
RESERVED_NAMES = frozenset({MANIFEST, RECORD, *NOTES})
REQUIRED_KEYS = {
    "kind",
    "key",
    "created",
    "asked",
    "details",
    "digest",
    "files",
}  # of every manifest
SELF_DIGEST = "seal_digest"  # of all other keys; older manifests have none
MENDING = "`chatpipe verify --mend` removes it"
REMEDY = f"the next run makes it anew, or {MENDING}."

DigestOf = Callable[[Path], str]


def write_manifest(path: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a directory after syncing its files to disk.

    Args:
        path: The directory, its files written.
        facts: Kind, key, request and details of the artifact.
    """
    recorded = {
        str(file.relative_to(path)): {"size": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    content = {name: item["sha256"] for name, item in recorded.items() if name not in NOTES}
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest = json.loads(json.dumps({"schema": 1, **facts, "digest": digest, "files": recorded}))
    manifest[SELF_DIGEST] = _self_digest(manifest)
    for file in path.rglob("*"):
        if not file.is_symlink():  # a linked file is the user's
            sync(file)
    write_atomically(path / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    sync(path)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of the artifact at `path`.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """
    try:
        content = (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{path}: no whole artifact is there ({MANIFEST} is missing)."
        ) from None
    try:
        manifest = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        manifest = None
    if (
        not isinstance(manifest, dict)
        or not manifest.keys() >= REQUIRED_KEYS
        or not _is_intact(manifest)
    ):
        raise ArtifactError(f"{path / MANIFEST}: is damaged; {REMEDY}")
    return manifest


def check_manifest(path: Path, digest_of: DigestOf = file_digest) -> dict[str, Any]:
    """Return the manifest after checking every file by size and SHA-256 (`digest_of` computes it).

    Raises:
        ArtifactError: Names the first file that is missing, not as recorded, or unrecorded.
    """
    manifest = read_manifest(path)
    for fault in (
        *faults(path, manifest, digest_of),
        *map(unexpected_file_fault, unexpected_files(path, manifest)),
    ):
        raise ArtifactError(fault)
    return manifest


def faults(
    path: Path, manifest: dict[str, Any], digest_of: DigestOf = file_digest
) -> Iterator[str]:
    """Yield a sentence for every file that is missing or not as the manifest records it."""
    for name, recorded in manifest["files"].items():
        file = path / name
        if not file.is_file():
            gone = f"the linked file {file.readlink()} is gone" if file.is_symlink() else "missing"
            yield f"{file}: recorded in {MANIFEST} but {gone}; {REMEDY}"
        elif (size := file.stat().st_size) != recorded["size"]:
            sizes = f"{recorded['size']} bytes recorded, {size} found"
            yield f"{file}: {sizes}{_source(file)}; {REMEDY}"
        elif digest_of(file) != recorded["sha256"]:
            yield f"{file}: content differs from the recorded SHA-256{_source(file)}; {REMEDY}"


def unexpected_files(path: Path, manifest: dict[str, Any]) -> list[Path]:
    """Return the files that the manifest does not record, which a library might read.

    Hidden files such as `.DS_Store` are left out: no library reads them.
    """
    expected = {MANIFEST, RECORD, *manifest["files"]}
    names = [file.relative_to(path) for file in path.rglob("*") if not file.is_dir()]
    visible = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return [path / name for name in sorted(visible) if str(name) not in expected]


def unexpected_file_fault(file: Path) -> str:
    """Return the sentence about a file that the manifest does not record."""
    return f"{file}: was not there when {MANIFEST} was written; move it away, or {MENDING}."


def _source(file: Path) -> str:
    return f" (it is linked from {file.resolve()}, which changed)" if file.is_symlink() else ""


def _is_intact(manifest: dict[str, Any]) -> bool:
    return SELF_DIGEST not in manifest or manifest[SELF_DIGEST] == _self_digest(manifest)


def _self_digest(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != SELF_DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

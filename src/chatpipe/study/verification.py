"""Every byte of what the store holds, compared with what was recorded when it was made:
artifacts, checkpoints of unfinished trainings, token files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Variant
from chatpipe.errors import ArtifactError, ChatpipeError, DiskError
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.artifact import Artifact, references
from chatpipe.store.disk_errors import disk_errors
from chatpipe.store.manifest import faults, read_manifest, unexpected_file_fault, unexpected_files
from chatpipe.store.paths import WORK
from chatpipe.store.store import store
from chatpipe.study.lookup import adapter_request, source_requests, trained
from chatpipe.tokenization.token_cache import check_token_file, tokens_folder
from chatpipe.training.checkpoints import complete_checkpoints, read_checkpoint, remove_checkpoint

MEASURED = ("template-check", "scores", "generations", "replies", "task-scores", "report")


@dataclass(frozen=True)
class Checked:
    """One artifact, checkpoint or token file: where it is, its bytes, and what is wrong with it;
    `strangers` are files that somebody put into an artifact which is whole. What cannot be read,
    for its rights or its disk, may be whole: it is never removed."""

    path: Path
    name: str
    size: int
    faults: tuple[str, ...] = ()
    unexpected_files: tuple[Path, ...] = ()
    is_readable: bool = True


def check_all() -> Iterator[Checked]:
    """Every artifact of this store, every checkpoint, and every token file; what another process
    makes now is passed over."""
    yield from map(_check_artifact, store().directories())
    for work in store().idle_work():
        yield from map(_check_checkpoint, complete_checkpoints(work))
    yield from _check_token_files()


def check_variant(variant: Variant) -> Iterator[Checked]:
    """The variant's artifacts: its sources, what was made of them, its adapters, what was measured
    of these and of its base; its checkpoints; and artifacts with unreadable manifests, which may be
    its own."""
    chosen = _of_variant(variant)
    for path in store().directories():
        if path in chosen or _manifest_bytes(path) is None:
            yield _check_artifact(path)
    unfinished = _unfinished_training(variant)
    for work in store().idle_work():
        if work.name == unfinished:
            yield from map(_check_checkpoint, complete_checkpoints(work))


def remove(damaged: Checked) -> list[str]:
    """Remove it from this machine alone, or of an artifact that is whole what does not belong to
    it; return a line for each thing removed."""
    again = "the next run makes it anew"
    with disk_errors(damaged.path):
        if damaged.unexpected_files:
            for file in damaged.unexpected_files:
                file.unlink()
            return [str(file) for file in damaged.unexpected_files]
        if damaged.path.is_relative_to(store().root / WORK):
            remove_checkpoint(damaged.path)
            again = "the next run goes on from the one before it, or starts anew"
        elif damaged.path.is_dir() and not damaged.path.is_symlink():
            store().discard(damaged.path)
        else:
            damaged.path.unlink()
    return [f"{damaged.name}; {again}."]


def _check_artifact(path: Path) -> Checked:
    name = f"{path.parent.name}/{path.name}"
    try:
        with disk_errors(path):
            manifest = read_manifest(path)
            problems = tuple(faults(path, manifest))
    except ChatpipeError as error:
        return Checked(path, name, 0, (str(error),), is_readable=not isinstance(error, DiskError))
    if (manifest["kind"], manifest["key"]) != (path.parent.name, path.name):
        problems += (f"{path}: holds another artifact, {manifest['kind']}/{manifest['key']}.",)
    added = unexpected_files(path, manifest)
    return Checked(
        path,
        name,
        sum(file["size"] for file in manifest["files"].values()),
        (*problems, *map(unexpected_file_fault, added)),
        () if problems else tuple(added),
    )


def _check_checkpoint(path: Path) -> Checked:
    problems: tuple[str, ...] = ()
    is_readable = True
    try:
        with disk_errors(path):
            read_checkpoint(path)
    except ChatpipeError as error:
        problems, is_readable = (str(error),), not isinstance(error, DiskError)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    name = f"{WORK}/{path.parent.name}/{path.name}"
    return Checked(path, name, size, problems, is_readable=is_readable)


def _check_token_files() -> Iterator[Checked]:
    for path in sorted(tokens_folder().glob("*.arrow")):
        problems: tuple[str, ...] = ()
        try:
            check_token_file(path, deep=True)
        except ArtifactError as error:
            problems = (str(error),)
        size = path.stat().st_size if path.is_file() else 0
        yield Checked(path, f"tokens/{path.name}", size, problems)


def _of_variant(variant: Variant) -> set[Path]:
    sources = {(request.kind, request.key()) for request in source_requests(variant)}
    bases = {key for kind, key in sources if kind == FetchModel.kind}
    chosen = {store().path(kind, key) for kind, key in sources}
    adapters = []
    with suppress(ChatpipeError):
        adapters = trained(variant, or_unknown=True)
    for manifest in adapters:
        _add_upstream(Artifact(**{name: manifest[name] for name in Artifact.model_fields}), chosen)
    digests = [manifest["digest"] for manifest in adapters]
    for kind in MEASURED:
        for manifest in store().manifests(kind):
            request = manifest["asked"]
            model = request.get("ask", request)  # a template-check is of what it would be asked
            of_base = model.get("adapter") is None and _key_of(model.get("base")) in bases
            if of_base or any(digest in json.dumps(request) for digest in digests):
                chosen.add(store().path(kind, manifest["key"]))
    return chosen


def _unfinished_training(variant: Variant) -> str | None:
    """The name of its work directory; None where its corpus is not there to say so."""
    with suppress(ChatpipeError):
        request = adapter_request(variant)
        return f"{request.kind}-{request.key()}"
    return None


def _key_of(reference: Any) -> str | None:
    return reference.get("key") if isinstance(reference, dict) else None


def _add_upstream(artifact: Artifact, chosen: set[Path]) -> None:
    if artifact.path in chosen:
        return
    chosen.add(artifact.path)
    manifest = _manifest_bytes(artifact.path)
    for upstream in references(manifest["asked"]) if manifest else ():
        _add_upstream(upstream, chosen)


def _manifest_bytes(path: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(path)
    except ArtifactError:
        return None

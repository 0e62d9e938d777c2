"""What a source's name stands for: a local path, packaged rows, or a repository of the hub."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from chatpipe.config.schema import Variant
from chatpipe.store.store import store
from chatpipe.utils.user_paths import expanded, is_there

PACKAGED = "packaged:"


def local_path(text: str | None) -> Path | None:
    """The existing local file or directory that `text` names, packaged samples included."""
    if text is None:
        return None
    if text.startswith(PACKAGED):
        path = Path(str(files("chatpipe").joinpath(text.removeprefix(PACKAGED))))
        return path if path.exists() else None
    path = expanded(text)
    return path.absolute() if is_there(path) else None


def source_directories(variant: Variant) -> list[Path]:
    """The directories that the variant names as sources: nothing is ever written there."""
    named = [variant.base_model.repo, *(data.path or data.repo for data in variant.read_datasets)]
    return [path.resolve() for path in map(local_path, named) if path is not None and path.is_dir()]


def looks_like_hub_id(text: str) -> bool:
    """Whether `text` has the form owner/name (or a bare legacy name) of a hub repository."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) is not None and not text.startswith(".")


def content_of(root: Path, root_files: list[Path]) -> str:
    """Name and SHA-256 of every file; a large one is read again only when it has changed."""
    names = [str(file.relative_to(root)) if root.is_dir() else file.suffix for file in root_files]
    digests = [store().digests.sha256(file) for file in root_files]
    return ",".join(f"{n}:{digest}" for n, digest in zip(names, digests, strict=True))

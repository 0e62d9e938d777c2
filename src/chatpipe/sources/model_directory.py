"""The files of a directory that make a base model, and what a directory lacks to be one."""

from __future__ import annotations

from pathlib import Path

from chatpipe.errors import SourceError
from chatpipe.sources import base_files
from chatpipe.store.manifest import RESERVED_NAMES
from chatpipe.utils.sentences import listed

# What transformers reads of a model: weights, the configurations, the tokenizer and its templates.
MODEL_FILES = (
    "*config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*token*.json",
    "chat_template*",
    "*.jinja",
    "tokenizer.model",
    *("vocab*.json", "vocab*.txt", "merges.txt", "tekken.json", "spiece.model"),
)
# transformers would apply an adapter that lies beside a base's weights, without a word.
ADAPTER_FILES = ("adapter_config.json", "adapter_model*")


def model_files(root: Path, name: str) -> list[Path]:
    """The files of a model directory that make the base; an adapter that lies there is no part of
    it, and no file of a name that artifacts have themselves is."""
    return [file for file in _matching(root, MODEL_FILES, name) if not _is_left_out(file)]


def adapter_files_left_out(root: Path) -> dict[str, list[str]]:
    """Adapter files in the base's directory, as a detail of the artifact."""
    names = sorted(file.name for pattern in ADAPTER_FILES for file in root.glob(pattern))
    return {"adapter_files_left_out": names} if names else {}


def check_model_directory(path: Path, name: str | None = None) -> None:
    """Refuse a directory from which no model can be loaded, with what it lacks; a shard that the
    index names is part of the weights."""
    if path.is_file():
        raise SourceError(
            f"{path}: is a file; name the directory that holds a model's config.json, its weights "
            "(*.safetensors) and its tokenizer."
        )
    missing = [
        what
        for what, pattern in (
            ("config.json", "config.json"),
            ("weights (*.safetensors)", "*.safetensors"),
            ("a tokenizer (tokenizer.json or tokenizer.model)", "tokenizer.[jm]*"),
        )
        if not any(file.is_file() and not _is_left_out(file) for file in path.glob(pattern))
    ]
    missing += sorted(shard for shard in _shards(path, name) if not (path / shard).is_file())
    if missing:
        raise SourceError(
            f"{name or path}: not a model directory; it lacks {', '.join(missing)}."
            + _why_it_lacks(path)
        )


def _why_it_lacks(path: Path) -> str:
    """A sentence on what lies there instead, where that is known."""
    dangling = sorted(f.name for f in path.iterdir() if f.is_symlink() and not f.exists())
    if dangling:
        return f" {listed(dangling)} is a link to a file that is not there."
    others = base_files.other_weights(path)
    if others and not any(path.glob("*.safetensors")):
        return (
            f" Weights of another format ({listed(others)}) are not read; save the "
            "model with save_pretrained."
        )
    if (path / "adapter_config.json").is_file():
        return (
            " It holds an adapter; name the adapter's base, or merge the adapter into it and name "
            "the merged model."
        )
    return ""


def _shards(path: Path, name: str | None) -> set[str]:
    if not (path / base_files.INDEX).is_file():
        return set()
    try:
        return base_files.shard_names(path)
    except ValueError as error:
        raise SourceError(f"{name or path}: {error}") from None


def _is_left_out(file: Path) -> bool:
    return file.name in RESERVED_NAMES or any(file.match(pattern) for pattern in ADAPTER_FILES)


def _matching(root: Path, patterns: tuple[str, ...], what: str) -> list[Path]:
    """The files under `root` that match, in order of pattern, then name; each once."""
    if root.is_file():
        return [root]
    matched = dict.fromkeys(
        file for pattern in patterns for file in sorted(root.glob(pattern)) if file.is_file()
    )
    if not matched:
        raise SourceError(f"{what}: no file in {root} matches {', '.join(patterns)}.")
    return list(matched)

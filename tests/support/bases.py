"""Base models that are broken or unusual, made of the tiny one in milliseconds."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def copy_of(base: Path, into: Path) -> Path:
    """That base in a directory of its own."""
    shutil.copytree(base, into)
    return into


def set_json(file: Path, **values) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def set_config(**values):
    """A change of config.json."""
    return lambda base: set_json(base / "config.json", **values)


def write(name: str, content: str | bytes):
    """A file with that content in the base's directory."""
    data = content.encode() if isinstance(content, str) else content
    return lambda base: (base / name).write_bytes(data)


def cut(name: str, size: int):
    """The first bytes of a file are left of it."""
    return lambda base: (base / name).write_bytes((base / name).read_bytes()[:size])


def change_weights(change):
    """`change` is given the tensors by name and gives them back."""

    def changed(base: Path) -> None:
        tensors = change(load_file(base / WEIGHTS))
        save_file({n: t.contiguous() for n, t in tensors.items()}, base / WEIGHTS, {"format": "pt"})

    return changed


def without(*parts: str):
    """The weights without the tensors whose names hold one of these parts."""
    return change_weights(lambda all_: {n: t for n, t in all_.items() if not _holds(n, parts)})


def renamed(prefix: str):
    """The weights with that before every name."""
    return change_weights(lambda all_: {prefix + name: tensor for name, tensor in all_.items()})


def in_shards(base: Path) -> None:
    """The weights in two files and an index, as large models have them."""
    tensors = load_file(base / WEIGHTS)
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (n % 2)}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(files.values()):
        save_file({n: tensors[n] for n in names if files[n] == file}, base / file, {"format": "pt"})
    (base / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": files}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def beside_shards(base: Path) -> None:
    """The weights in one file, and others, twice as large, in shards beside it."""
    content = (base / WEIGHTS).read_bytes()
    change_weights(lambda all_: {name: 2 * tensor for name, tensor in all_.items()})(base)
    in_shards(base)
    (base / WEIGHTS).write_bytes(content)


def without_metadata(base: Path) -> None:
    """As `in_shards`, but the index holds the map alone."""
    in_shards(base)
    set_json(base / "model.safetensors.index.json", metadata=None)


def with_index(**files: str):
    """As `in_shards`, but the index names these files for some tensors."""

    def changed(base: Path) -> None:
        in_shards(base)
        file = base / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        for name, value in files.items():
            index["weight_map"][name.replace("__", ".")] = value
        file.write_text(json.dumps(index))

    return changed


def together(*changes):
    """One change after the other."""

    def changed(base: Path) -> None:
        for change in changes:
            change(base)

    return changed


def _holds(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)

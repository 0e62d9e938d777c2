"""What the files of a base model's directory are, before anything loads them."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatpipe.utils.sentences import listed

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE_FILES = ("chat_template.jinja", "additional_chat_templates")
JSON_FILES = (
    CONFIG,
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
)
POINTER = b"version https://git-lfs"
LARGEST_HEADER = 100_000_000  # as safetensors itself has it


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors header tells of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass
class Weights:
    """Tensors of the weight files that transformers reads, and what is wrong with these files."""

    tensors: dict[str, TensorHeader] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def json_faults(directory: Path) -> list[str]:
    """What is wrong with the JSON files and the tokenizer's model, one sentence a file."""
    faults = []
    for path in [directory / name for name in (*JSON_FILES, "tokenizer.model")]:
        if not path.is_file():
            continue
        fault = pointer_or_empty(path)
        if fault is None and path.suffix == ".json":
            try:
                read_object(path)
            except ValueError as error:
                fault = str(error)
        faults += [fault] if fault else []
    return faults


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError with a sentence where the file holds none."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: is not JSON ({_short(error)}); fetch it again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: holds no JSON object; fetch it again.")
    return content


def has_chat_template(directory: Path) -> bool:
    """Whether its tokenizer has a chat template, which may be one that cannot be used."""
    config = directory / TOKENIZER_CONFIG
    if any((directory / name).exists() for name in CHAT_TEMPLATE_FILES):
        return True
    try:
        return config.is_file() and bool(read_object(config).get("chat_template"))
    except ValueError:  # other code reports what is wrong with the file
        return False


def read_weights(directory: Path) -> Weights:
    """The headers of the weight files; none where the directory has no weights at all."""
    weights = Weights()
    names = _weight_files(directory, weights.faults)
    for name in names:
        path = directory / name
        fault = pointer_or_empty(path)
        if fault is None:
            try:
                _add(weights, path)
                continue
            except ValueError as error:
                fault = f"{name}: {error}; fetch it again."
        weights.faults.append(fault)
    if not weights.faults and names != [WHOLE]:
        weights.faults += _not_in_shards(directory, weights)
    return weights


def weight_files(directory: Path) -> list[Path]:
    """The weight files that transformers reads."""
    return [directory / name for name in _weight_files(directory, [])]


def unread_weights(directory: Path) -> list[str]:
    """Safetensors files beside those that transformers reads."""
    read = set(_weight_files(directory, []))
    files = {file.name for file in directory.glob("*.safetensors")}
    return sorted(name for name in files - read if not name.startswith("adapter_"))


def shard_names(directory: Path) -> set[str]:
    """The files that the index names; ValueError with a sentence where it is broken."""
    index = read_object(directory / INDEX)
    weight_map = index.get("weight_map")
    if (
        not weight_map
        or not isinstance(weight_map, dict)
        or not all(isinstance(v, str) for v in weight_map.values())
    ):
        raise ValueError(f"{INDEX}: has no weight_map of tensors to files; fetch it again.")
    if not isinstance(index.get("metadata"), dict):
        raise ValueError(f"{INDEX}: has no metadata, which transformers reads; fetch it again.")
    names = set(weight_map.values())
    elsewhere = sorted(
        name for name in names if Path(name).name != name or not name.endswith(".safetensors")
    )
    if elsewhere:
        raise ValueError(
            f"{INDEX}: names {elsewhere[0]!r}, which is no safetensors file of the model's own "
            "directory."
        )
    return names


def other_weights(directory: Path) -> list[str]:
    """Weight files of formats that are not read here."""
    patterns = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx")
    names = {file.name for pattern in patterns for file in directory.glob(pattern)}
    return sorted(name for name in names if not name.startswith(("training_args", "adapter_")))


def _weight_files(directory: Path, faults: list[str]) -> list[str]:
    """As transformers chooses them: one file, or those of the index."""
    if (directory / WHOLE).is_file():
        return [WHOLE]
    if (directory / INDEX).is_file():
        try:
            names = sorted(shard_names(directory))
        except ValueError as error:
            faults.append(str(error))
            return []
        missing = [name for name in names if not (directory / name).is_file()]
        if missing and any((directory / name).is_file() for name in names):
            faults.append(f"{INDEX}: names {', '.join(missing)}, which the directory lacks.")
        return [name for name in names if name not in missing]
    others = sorted(file.name for file in directory.glob("*.safetensors"))
    if others:
        faults.append(
            f"{others[0]}: weights are read from {WHOLE} or from the files of {INDEX}, and the "
            "directory has neither; rename the file, or fetch the index."
        )
    return []


def _add(weights: Weights, path: Path) -> None:
    """ValueError, without the file's name, where it is no whole safetensors file."""
    for name, tensor in tensor_headers(path).items():
        if name in weights.tensors:
            raise ValueError(f"holds {name}, and so does a file before it")
        weights.tensors[name] = tensor


def tensor_headers(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file; ValueError, without the file's name, where it is not
    whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > LARGEST_HEADER:
            raise ValueError("is no safetensors file")
        if 8 + length > size:
            raise ValueError(f"is cut off within its header, at {size:,} bytes")
        try:
            header = json.loads(file.read(length))
            tensors = {
                name: TensorHeader(entry["dtype"], tuple(entry["shape"]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
            ends = [e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ValueError("is no safetensors file") from None
    whole = 8 + length + max(ends, default=0)
    if not tensors:
        raise ValueError("holds no tensor")
    if size != whole:
        raise ValueError(f"has {size:,} bytes where its header says {whole:,}")
    return tensors


def _not_in_shards(directory: Path, weights: Weights) -> list[str]:
    if not (directory / INDEX).is_file():
        return []
    named = read_object(directory / INDEX)["weight_map"]
    lacking = sorted(name for name in named if name not in weights.tensors)
    if not lacking or not weights.tensors:
        return []
    return [f"{named[lacking[0]]}: lacks {listed(lacking)}, which {INDEX} says it holds."]


def pointer_or_empty(path: Path) -> str | None:
    """A sentence where the file is empty, or stands for one that Git LFS has not fetched."""
    if not path.stat().st_size:
        return f"{path.name}: the file is empty; fetch it again."
    with path.open("rb") as file:
        if file.read(len(POINTER)) != POINTER:
            return None
    return (
        f"{path.name}: is a Git LFS pointer of {path.stat().st_size} bytes, not the file itself; "
        "run `git lfs pull` in its repository."
    )


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

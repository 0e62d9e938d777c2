"""Takes a LoRA adapter that was trained elsewhere into the store, its base checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.schema import ImportedAdapter
from chatpipe.errors import AdapterError, SourceError
from chatpipe.models.base_checks import check_base
from chatpipe.sources.base_files import TensorHeader, pointer_or_empty, tensor_headers
from chatpipe.sources.local_paths import content_of
from chatpipe.store.artifact import Artifact, Request
from chatpipe.training.adapter_files import CONFIG, WEIGHTS, write_config
from chatpipe.training.imported_config import base_note, config_faults, read_config
from chatpipe.training.imported_tokenizer import tokenizer_notes
from chatpipe.training.imported_weights import tensor_faults, value_faults

# What peft would do when it loads the adapter, beside taking its weights.
_AT_LOADING = {
    "auto_mapping": None,
    "inference_mode": True,
    "init_lora_weights": True,
    "eva_config": None,
}


class ImportAdapter(Request):
    """The request for the copy of an adapter: the content of its files, and its base."""

    kind: ClassVar[str] = "adapter"
    version: ClassVar[int] = 1
    hash_exclude: ClassVar[frozenset[str]] = frozenset({"path", "same_base"})

    base: Artifact
    content: str
    path: str
    same_base: bool = False

    @classmethod
    def of(cls, imported: ImportedAdapter, base: Artifact) -> ImportAdapter:
        """Return the request for that adapter on that base."""
        content = imported.content or adapter_content(Path(imported.path))
        return cls(base=base, content=content, path=imported.path, same_base=imported.same_base)

    def build(self, into: Path) -> dict[str, Any]:
        directory = Path(self.path)
        if not directory.is_dir():
            raise SourceError(
                f"{directory}: the adapter was imported from there, and the store has no copy of "
                "it any more; put it there again, or import it from another place."
            )
        if adapter_content(directory) != self.content:
            raise SourceError(
                f"{directory}: holds another adapter than the one that was imported; put that one "
                "there again, or import the new one under a name of its own."
            )
        config = read_config(directory)
        notes = check_adapter(directory, config, self.base, self.same_base)
        shutil.copyfile(directory / WEIGHTS, into / WEIGHTS)
        write_config({**config, **_AT_LOADING}, self.base, into)
        return self._details(config, tensor_headers(into / WEIGHTS), notes)

    def _details(
        self, config: dict[str, Any], tensors: dict[str, TensorHeader], notes: list[str]
    ) -> dict[str, Any]:
        sizes = [header.elements for header in tensors.values()]
        return {
            "imported": True,
            "base_named": config.get("base_model_name_or_path"),
            "peft_version": config.get("peft_version"),
            "trainable_parameters": sum(sizes),
            "notes": notes,
            "made_from": self.base.lineage(),
        }


def adapter_content(directory: Path) -> str:
    """The digests of an adapter's files; SourceError where the directory holds none."""
    check_directory(directory)
    return content_of(directory, [directory / CONFIG, directory / WEIGHTS])


def check_directory(directory: Path) -> None:
    """SourceError with what lies there instead of an adapter's two files."""
    if not directory.is_dir():
        state = "is a file" if directory.exists() else "is not there"
        raise SourceError(f"{directory}: {state}; name the directory of a peft adapter.")
    missing = [name for name in (CONFIG, WEIGHTS) if not (directory / name).is_file()]
    if missing:
        raise SourceError(
            f"{directory}: is no peft adapter; it lacks {' and '.join(missing)}."
            + _why_it_lacks(directory)
        )
    faults = [pointer_or_empty(directory / name) for name in (CONFIG, WEIGHTS)]
    for fault in filter(None, faults):
        raise SourceError(f"{directory}: {fault}")


def _why_it_lacks(directory: Path) -> str:
    if (directory / "adapter_model.bin").is_file():
        return (
            " adapter_model.bin can run code when it is read, so it is not: load the adapter with "
            "peft where you trust it, and save it again with save_pretrained(DIR), which writes "
            f"{WEIGHTS}."
        )
    inner = sorted(file.parent.name for file in directory.glob(f"*/{CONFIG}"))
    if inner:
        return f" Name one of its directories that holds one ({', '.join(inner[:3])})."
    if (directory / "config.json").is_file():
        return " It holds a whole model, which a variant can name as base_model."
    return ""


def check_adapter(
    directory: Path, config: dict[str, Any], base: Artifact, same_base: bool
) -> list[str]:
    """Return what has to be known of the adapter, a sentence each.

    Raises:
        AdapterError: It is no LoRA adapter of that base, or its numbers cannot be used.
    """
    from chatpipe.models.loading import load_tokenizer

    check_base(base.path)
    _refuse(directory, config_faults(config))
    other, unknown = base_note(config, base.details(), base.key)
    _refuse(directory, [other] if other and not same_base else [])
    try:
        tensors = tensor_headers(directory / WEIGHTS)
    except ValueError as error:
        raise AdapterError(f"{directory}: {WEIGHTS}: {error}; copy it again.") from None
    _refuse(directory, tensor_faults(config, tensors, base.path))
    _refuse(directory, value_faults(directory / WEIGHTS))
    notes = tokenizer_notes(directory, load_tokenizer(base.path))
    return [*([unknown] if unknown else []), *notes]


def _refuse(directory: Path, faults: list[str]) -> None:
    if faults:
        raise AdapterError(*(f"{directory}: {fault}" for fault in faults))

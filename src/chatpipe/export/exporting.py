"""A variant's model written into a new directory, and compared with the one that chatpipe asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from chatpipe.errors import ConfigError
from chatpipe.export import prompts
from chatpipe.export.card import write_card
from chatpipe.export.forms import SCRATCH, Form, Outtype, Settings, Writer
from chatpipe.export.gguf_forms import GgufLoraWriter, GgufWriter, OllamaWriter
from chatpipe.export.peft_forms import AdapterWriter, MergedWriter
from chatpipe.export.room import check_memory, check_space
from chatpipe.export.source import Source
from chatpipe.store.new_directory import check_new, new_directory

Tell = Callable[[str], None]

WRITERS: dict[Form, type[Writer]] = {
    "adapter": AdapterWriter,
    "merged": MergedWriter,
    "gguf": GgufWriter,
    "gguf-lora": GgufLoraWriter,
    "ollama": OllamaWriter,
}


OUTTYPES: dict[Form, tuple[Outtype, ...]] = {
    "adapter": ("f16",),
    "merged": ("f16", "bf16", "f32"),
    "gguf": ("f16", "q8_0", "f32"),
    "gguf-lora": ("f16", "q8_0", "f32"),
    "ollama": ("f16", "q8_0", "f32"),
}


WITHOUT_INTO: frozenset[Form] = frozenset({"adapter"})  # nothing is merged
WITH_BASE: frozenset[Form] = frozenset({"gguf-lora"})


def export(source: Source, target: Path, settings: Settings, tell: Tell) -> None:
    """Write the model into the new directory `target`, whole or not at all.

    Raises:
        ConfigError: The target exists, nothing can be put there, or the form has no such setting.
        ExportError: It cannot be written in that form, or what was written is not the model.
    """
    check_new(target)
    if faults := _faults(settings):
        raise ConfigError(faults)
    writer = WRITERS[settings.form](source, settings)
    writer.check_first()
    check_space(target, writer.needed_bytes())
    check_memory(writer.memory_bytes())
    prompts.check_template(source.encoder, source.tokenizer, source.jinja)
    with new_directory(target) as into:
        sentences = writer.write(into)
        shutil.rmtree(into / SCRATCH, ignore_errors=True)
        write_card(into, source.variant, source.model, writer.card(sentences))
    for sentence in sentences:
        tell(sentence)


def _faults(settings: Settings) -> list[str]:
    """A sentence for each setting that the form does not have."""
    form, faults = settings.form, []
    allowed = OUTTYPES[form]
    if settings.outtype not in allowed and form == "adapter":
        faults.append("--outtype: adapter is written as it was trained; leave it out.")
    elif settings.outtype not in allowed:
        faults.append(f"--outtype {settings.outtype}: {form} has {' or '.join(allowed)}.")
    if settings.into_original and form in WITHOUT_INTO:
        faults.append(f"--into original: {form} is merged into no base; leave it out.")
    if settings.with_base and form not in WITH_BASE:
        faults.append(f"--with-base: goes with --to {' or '.join(WITH_BASE)}; leave it out.")
    return faults

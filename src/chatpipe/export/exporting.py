"""A variant's model written into a new directory, and compared with the one that chatpipe asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from chatpipe.errors import ConfigError
from chatpipe.export import prompts
from chatpipe.export.card import write_card
from chatpipe.export.directory import check_new, check_space, new_directory
from chatpipe.export.forms import SCRATCH, Form, Outtype, Settings, Writer
from chatpipe.export.gguf_forms import GgufLoraWriter, GgufWriter, OllamaWriter
from chatpipe.export.peft_forms import AdapterWriter, MergedWriter
from chatpipe.export.source import Source

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


def export(source: Source, target: Path, settings: Settings, tell: Tell) -> None:
    """Write the model into the new directory `target`, whole or not at all.

    Raises:
        ConfigError: The target exists, or nothing can be put there.
        ExportError: It cannot be written in that form, or what was written is not the model.
    """
    check_new(target)
    allowed = OUTTYPES[settings.form]
    if settings.outtype not in allowed:
        raise ConfigError(
            [f"--outtype {settings.outtype}: {settings.form} has {' or '.join(allowed)}."]
        )
    writer = WRITERS[settings.form](source, settings)
    writer.check_first()
    check_space(target, writer.needed_bytes())
    prompts.check_template(source.encoder, source.tokenizer, source.jinja)
    with new_directory(target) as into:
        sentences = writer.write(into)
        shutil.rmtree(into / SCRATCH, ignore_errors=True)
        write_card(into, source.variant, source.model, writer.card(sentences))
    for sentence in sentences:
        tell(sentence)

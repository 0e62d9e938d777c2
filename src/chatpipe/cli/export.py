"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import Overrides, VariantName


def export(
    variant: VariantName,
    out: Annotated[Path, typer.Argument(help="New directory.")],
    to: Annotated[
        Literal["adapter", "merged", "gguf", "gguf-lora", "ollama"],
        typer.Option(
            "--to",
            help="adapter: peft's files; merged: safetensors; gguf: for llama.cpp; gguf-lora: the "
            "adapter alone, for llama.cpp; ollama: GGUF with a Modelfile.",
        ),
    ],
    into: Annotated[
        Literal["trained", "original"],
        typer.Option(
            help="trained: into the base as it was trained against; original: as it was published."
        ),
    ] = "trained",
    outtype: Annotated[
        Literal["f16", "bf16", "f32", "q8_0"],
        typer.Option(help="The type of the weights; q8_0 in GGUF files, bf16 in safetensors."),
    ] = "f16",
    with_base: Annotated[
        bool, typer.Option("--with-base", help="gguf-lora: write the base's GGUF file, too.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Write a trained variant's model into a new directory, for other programs."""
    with exit_on_error():
        from chatpipe.runtime.environment import prepare
        from chatpipe.store.store import store
        from chatpipe.study.export import check_target
        from chatpipe.study.loading import load_variant
        from chatpipe.study.lookup import find_model

        settings = load_variant(variant, overrides or [])
        check_target(out, settings)
        model = find_model(settings)
        for artifact in model.artifacts():
            store().fetch(artifact)
        prepare()

        from chatpipe.export.exporting import export as write_export
        from chatpipe.export.forms import Settings
        from chatpipe.export.source import Source

        source = Source(settings, model)
        options = Settings(to, into == "original", outtype, with_base)
        write_export(source, out, options, typer.echo)
        typer.echo(f"{to}: {out}")

"""The command `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import Overrides, complete_names


def import_adapter(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Directory of a LoRA adapter in peft's files, as TRL, Unsloth, axolotl or "
            "LLaMA-Factory save it, too.",
        ),
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the new variant.")],
    like: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="Take base, rows, panel and evaluation of this variant, to be compared with it.",
            autocompletion=complete_names("variants"),
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="Its base: hub repository or directory; default: the one it names."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows whose held-out part it is scored on: catalogue, file or hub; repeatable."
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="The prompt template that it was trained in, by name, or a file of Jinja text; "
            "default: the chat template in DIR."
        ),
    ] = None,
    same_base: Annotated[
        bool,
        typer.Option("--same-base", help="The base is the adapter's, under another name."),
    ] = False,
    trained_on: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What it was trained on, in words for the report."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Take an adapter that was trained elsewhere as a variant, to score and compare it."""
    with exit_on_error():
        from chatpipe.runtime.environment import prepare

        prepare()

        from chatpipe.study.importing import ImportOptions, import_adapter

        options = ImportOptions(
            like,
            base_model,
            tuple(dataset or ()),
            template,
            same_base,
            trained_on,
            tuple(overrides or ()),
        )
        imported = import_adapter(directory, name, options)
        for note in imported.notes():
            typer.echo(f"note: {note}")
        typer.echo(f"variant: {imported.file} (for run, compare, ask, chat, serve and export)")

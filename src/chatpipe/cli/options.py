"""Arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer


def names_of(kind: str) -> Callable[[], list[str]]:
    """Completion of the names of all "variants" or "studies"."""

    def complete() -> list[str]:
        from chatpipe.study.loading import names

        return names(kind)

    return complete


VARIANT_HELP = "A variant's name or YAML file; NAME+key=value is that run of it."
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: training.epochs=1"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a machine to read.")]
VariantName = Annotated[str, typer.Argument(help=VARIANT_HELP, autocompletion=names_of("variants"))]
OptionalVariant = Annotated[
    str | None,
    typer.Argument(metavar="[VARIANT]", help=VARIANT_HELP, autocompletion=names_of("variants")),
]
StudyName = Annotated[
    str, typer.Argument(help="A study's name or YAML file.", autocompletion=names_of("studies"))
]

"""Arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer


def complete_names(kind: str) -> Callable[[], list[str]]:
    """Return a shell completion of the names of all "variants" or "studies"."""

    def complete() -> list[str]:
        from chatpipe.study.loading import names

        return names(kind)

    return complete


VARIANT_HELP = "A variant's name or YAML file, or the name of a run: NAME+key=value."
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, like training.epochs=1; repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VariantName = Annotated[
    str, typer.Argument(help=VARIANT_HELP, autocompletion=complete_names("variants"))
]
OptionalVariant = Annotated[
    str | None,
    typer.Argument(
        metavar="[VARIANT]", help=VARIANT_HELP, autocompletion=complete_names("variants")
    ),
]
StudyName = Annotated[
    str,
    typer.Argument(help="A study's name or YAML file.", autocompletion=complete_names("studies")),
]

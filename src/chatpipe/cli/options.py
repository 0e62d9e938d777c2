"""Arguments and options that several commands take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import typer


def complete_names(kind: str) -> Callable[[], list[str]]:
    """Return a shell completion of the names of all "variants" or "studies", or of "both"."""

    def complete() -> list[str]:
        from chatpipe.study.files import names

        kinds = ("variants", "studies") if kind == "both" else (kind,)
        return [name for kind in kinds for name in names(kind)]

    return complete


def check_is_number(value: float | None) -> float | None:
    """Refuse NaN, which some versions of typer let pass every bound."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("expected a number.")
    return value


VARIANT_HELP = "A variant's name or YAML file, or the name of a run: NAME+key=value."
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, like training.epochs=1; repeatable."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Of a study: train at most N variants now, the first seed of every combination first; "
        "the same command trains the next ones.",
    ),
]
Lang = Annotated[
    Literal["en", "zh"],
    typer.Option(help="zh: write the report's page and Markdown in Chinese, too."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VariantName = Annotated[
    str, typer.Argument(help=VARIANT_HELP, autocompletion=complete_names("variants"))
]
VARIANT_OR_STUDY_HELP = "A name or YAML file of a variant or a study, or a run: NAME+key=value."
VariantOrStudy = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help=VARIANT_OR_STUDY_HELP, autocompletion=complete_names("both")
    ),
]
OptionalVariantOrStudy = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help=VARIANT_OR_STUDY_HELP, autocompletion=complete_names("both")
    ),
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

"""The command preview, and training rows on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import AsJson, Overrides, VariantName
from chatpipe.utils.quantities import count_of, rows_are

SCORED_STYLE = "bold green"
OPENING, CLOSING = "⟦", "⟧"  # around the scored part where there are no colours


def preview(
    variant: VariantName,
    rows: Annotated[int, typer.Option(min=1, help="How many training rows.")] = 3,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show training rows as the model gets them, with the scored part marked."""
    with exit_on_error():
        from chatpipe.cli.run import check_variants
        from chatpipe.runtime.environment import prepare
        from chatpipe.study.loading import load_variant

        settings = load_variant(variant, overrides or [])
        check_variants([settings])
        prepare()

        from rich.console import Console

        from chatpipe.planning import preview as previews

        shown = previews.preview(settings, rows)
        if as_json:
            typer.echo(shown.model_dump_json(indent=1))
            return
        console = Console()
        for line in preview_lines(shown, in_colour(console)):
            console.print(line, highlight=False, soft_wrap=not console.is_terminal)


def in_colour(console: Any) -> bool:
    """Whether the console shows colours."""
    return bool(console.is_terminal and console.color_system and not console.no_color)


def left_out_line(reason: str, rows: int) -> str:
    """How many training rows are left out for that reason."""
    return f"{rows_are(rows)} left out: {reason}."


def preview_lines(preview: Any, colour: bool, most_characters: int | None = None) -> Iterator[Any]:
    """Yield what a console prints of a `Preview`.

    Args:
        colour: mark the scored part by a colour, else by brackets.
        most_characters: of a part; the middle of a longer one is left out.
    """
    from rich.text import Text

    mark = "in green" if colour else f"in {OPENING}{CLOSING}"
    shown = len({row.row for row in preview.rows})
    yield Text(
        f"{shown:,} of {count_of(preview.training_rows, 'training row')}; what is scored stands "
        f"{mark}."
    )
    for reason, rows in preview.left_out.items():
        yield Text(left_out_line(reason, rows))
    for row in preview.rows:
        cut = ""
        if row.cut_tokens:
            side = "last" if preview.too_long == "cut_right" else "first"
            are = "is" if row.cut_tokens == 1 else "are"
            cut = f"; the {side} {row.cut_tokens:,} {are} cut (training.max_length)"
        tokens = count_of(row.tokens, "token")
        yield Text(
            f"\nRow {row.row}: {tokens}, {row.scored_tokens:,} of them scored{cut}",
            style="bold" if colour else "",
        )
        yield _row_text(row, colour, most_characters)


def _row_text(row: Any, colour: bool, most_characters: int | None) -> Any:
    from rich.text import Text

    from chatpipe.utils.visible_text import visible

    text = Text()
    for part in row.parts:
        shown = visible(_shortened(part.text, most_characters))
        if part.scored and colour:
            text.append(shown, style=SCORED_STYLE)
        else:
            text.append(f"{OPENING}{shown}{CLOSING}" if part.scored else shown)
    return text


def _shortened(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"

"""The command validate: a variant, a study, or a file of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import complete_names
from chatpipe.cli.run import check_variants
from chatpipe.errors import ConfigError
from chatpipe.utils.visible_text import visible_line


def validate(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name or YAML file of a variant or a study, a run, or a file of rows.",
            autocompletion=complete_names("both"),
        ),
    ],
) -> None:
    """Check a variant, a study or a file of rows; print all faults, exit code 2 if any."""
    with exit_on_error():
        from chatpipe.config.yaml_files import is_yaml
        from chatpipe.planning.row_checks import no_file

        path = Path(name)
        if _is_meant_as_file(name) and not path.is_file():
            raise ConfigError([f"{name}: {no_file(path)}."])
        if path.is_file() and not is_yaml(name):
            _validate_rows(path)
        else:
            _validate_variants(name)


def _is_meant_as_file(name: str) -> bool:
    """Whether it is no name of a variant, study or run: it is there, or has a suffix or folder."""
    from chatpipe.config.yaml_files import is_yaml
    from chatpipe.study.files import names

    if is_yaml(name):
        return True
    if "=" in name or "+" in name or name in {*names("variants"), *names("studies")}:
        return False
    path = Path(name)
    return bool(path.suffix) or "/" in name or path.exists() or path.is_symlink()


def _validate_rows(path: Path) -> None:
    from chatpipe.planning.row_checks import checked_rows, format_of

    row_format = format_of(path)
    checked = checked_rows(path, row_format, {})
    if faults := checked.faults(path):
        raise ConfigError(faults)
    for line in checked.notes(path):
        typer.echo(visible_line(line))
    typer.echo(visible_line(f"{path}: every row can be used ({row_format})."))


def _validate_variants(name: str) -> None:
    from chatpipe.planning.row_checks import check_rows
    from chatpipe.study.studies import load_variants

    variants = load_variants(name)
    check_variants(variants)
    rows = check_rows(variants)
    for line in (*rows.notes, *rows.set_aside):
        typer.echo(visible_line(line))
    aside = ", but a run sets these rows aside" if rows.set_aside else ""
    typer.echo(visible_line(f"{name}: fine{aside}."))

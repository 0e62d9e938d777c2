"""The command `verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import OptionalVariant, Overrides


def verify(
    variant: OptionalVariant = None,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Remove damaged artifacts here; a run builds them again."),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Read all artifacts and compare their digests; exit code 1 if any is damaged."""
    with exit_on_error():
        from chatpipe.errors import ConfigError
        from chatpipe.study import verification
        from chatpipe.study.loading import load_variant
        from chatpipe.utils.quantities import in_bytes

        if variant is None and overrides:
            raise ConfigError(["verify: --set goes with a variant; name one."])
        checks = (
            verification.check_variant(load_variant(variant, overrides or [], must_exist=False))
            if variant
            else verification.check_all()
        )
        count, size, damaged, unreadable = 0, 0, 0, 0
        for checked in checks:
            count, size = count + 1, size + checked.size
            if not checked.faults:
                continue
            more = f" (and {len(checked.faults) - 1} more)" if len(checked.faults) > 1 else ""
            word = "damaged" if checked.is_readable else "unreadable"
            typer.echo(f"{word}: {checked.name}: {checked.faults[0]}{more}")
            damaged += checked.is_readable
            unreadable += not checked.is_readable
            if mend and checked.is_readable:
                for line in verification.remove(checked):
                    typer.echo(f"removed: {line}")
        end = f", {unreadable} unreadable" if unreadable else ""
        typer.echo(f"{count} checked ({in_bytes(size)}), {damaged} damaged{end}")
        if damaged or unreadable:
            raise typer.Exit(1)

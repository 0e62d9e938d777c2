"""How commands end badly: errors made for people become sentences on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from chatpipe.errors import ChatpipeError, ConfigError
from flows.server_faults import in_a_sentence

BAD_INPUT = 2


@contextmanager
def refusals() -> Iterator[None]:
    """Exit code 2 for bad input, 1 for what failed, 130 for what was stopped."""
    try:
        yield
    except ConfigError as error:
        for fault in error.faults:
            typer.echo(fault, err=True)
        raise typer.Exit(BAD_INPUT) from None
    except ChatpipeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        from chatpipe.artifacts import home
        from chatpipe.disk_errors import as_disk_error

        sentence = as_disk_error(error, home()) or in_a_sentence(error)
        if sentence is None:
            raise
        typer.echo(str(sentence), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on.", err=True)
        raise typer.Exit(130) from None

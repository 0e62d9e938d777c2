"""The commands of re-evaluation: reevaluate, history, accept."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import (
    AsJson,
    OptionalVariant,
    Overrides,
    VariantName,
    check_is_number,
    complete_names,
)


def reevaluate(
    variants: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VARIANT]...",
            help="Names or YAML files; default: all variants with a stored adapter.",
            autocompletion=complete_names("variants"),
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0,
            callback=check_is_number,
            help="Relative worsening that still passes; 0.02 is 2 %.",
        ),
    ] = 0.02,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Verify stored adapters, score them again, and compare with the accepted figures."""
    with exit_on_error():
        from chatpipe.errors import ConfigError, GateError
        from chatpipe.store.paths import home
        from chatpipe.study.loading import load_variant

        if overrides and not variants:
            raise ConfigError(["reevaluate: --set goes with variants; name them."])
        chosen = [load_variant(name, overrides or []) for name in variants] if variants else None

        from chatpipe.cli.console import quiet_console
        from chatpipe.cli.interrupts import end_at_second_interrupt
        from chatpipe.cli.temporary_server import prepare_temporary_server
        from flows.reevaluate import reevaluate as reevaluate_flow

        end_at_second_interrupt()
        quiet_console()
        prepare_temporary_server()
        state = reevaluate_flow(chosen, tolerance, return_state=True)
        error: Any = state.result(raise_on_failure=False)
        if error and not isinstance(error, GateError):
            raise error
        _print_newest([variant.name for variant in chosen] if chosen else None, as_json)
        if error:
            raise error
        if not as_json:
            typer.echo(state.message)
            typer.echo(f"trend: {home() / 'reports' / 'reevaluation' / 'index.html'}")


def history(
    variant: OptionalVariant = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Print all recorded checks and acceptances, oldest first."""
    with exit_on_error():
        from chatpipe.errors import ConfigError
        from chatpipe.reevaluation import history as evaluations

        if variant is None and overrides:
            raise ConfigError(["history: --set goes with a variant; name one."])
        name = _run_name(variant, overrides or []) if variant else None
        entries = evaluations.read(name)
        if as_json:
            _print_json(entries)
        elif entries:
            _print_table([_history_row(entry) for entry in entries])
        else:
            subject = f"{name} was not" if name else "nothing was"
            typer.echo(f"{subject} evaluated yet; start with: chatpipe reevaluate")


def accept(variant: VariantName, overrides: Overrides = None) -> None:
    """Accept a variant's newest figures; later checks compare with them."""
    with exit_on_error():
        from chatpipe.reevaluation import history as evaluations
        from chatpipe.report.formatting import perplexity

        for entry in evaluations.accept(_run_name(variant, overrides or [])):
            typer.echo(f"accepted: {entry.heldout}: {entry.metric} {perplexity(entry.value)}")


def _run_name(variant: str, overrides: list[str]) -> str:
    """Return the run's name in the history, which also has removed variants."""
    from chatpipe.reevaluation import history as evaluations
    from chatpipe.study.loading import load_variant

    if not overrides and any(entry.variant == variant for entry in evaluations.read()):
        return variant
    return load_variant(variant, overrides, must_exist=False).name


def _print_newest(names: list[str] | None, as_json: bool) -> None:
    from chatpipe.reevaluation import history as evaluations
    from chatpipe.reevaluation import trend

    entries = [e for e in evaluations.read() if names is None or e.variant in names]
    if as_json:
        _print_json(evaluations.newest(entries))
    elif entries:
        shown = ("Variant", "Held-out set", "Measure", "Accepted", "Now", "Change", "Scored")
        rows = [{name: row[name] for name in shown} for row in trend.trend_rows(entries)]
        for row in rows:  # the page has the intervals
            row["Accepted"], row["Now"] = (row[n].partition(" [")[0] for n in ("Accepted", "Now"))
        _print_table(rows)


def _history_row(entry: Any) -> dict[str, str]:
    from chatpipe.report.formatting import interval, moment, perplexity

    return {
        "Time": moment(entry.checked_at.isoformat()),
        "What": entry.record,
        "Variant": entry.variant,
        "Held-out set": entry.heldout,
        "Measure": entry.metric,
        "Figure": perplexity(entry.value) + interval(entry.low, entry.high),
        "Adapter": entry.model_digest[:12],
        "Scored": entry.scored,
    }


def _print_json(entries: list[Any]) -> None:
    typer.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1))


def _print_table(rows: list[dict[str, str]]) -> None:
    """Print aligned columns; cells are not cut or wrapped, so that grep finds a line."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())

"""The command `doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from chatpipe.cli.errors import exit_on_error


def doctor(
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check",
            help="Compare every kernel with the plain path on this device and measure its rates "
            "(a minute); default: where there is a GPU.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine has and what is wrong with it; exit code 1 if anything is a fault."""
    from chatpipe.runtime.environment import prepare
    from chatpipe.server.findings import all_findings

    with exit_on_error():
        prepare()
        findings = []
        for finding in all_findings(check):
            findings.append(finding)
            if not as_json:
                typer.echo(f"{finding.state:8}{finding.sentence()}")
        if as_json:
            typer.echo(json.dumps([finding.model_dump() for finding in findings], indent=1))
        if any(finding.state == "fault" for finding in findings):
            raise typer.Exit(1)

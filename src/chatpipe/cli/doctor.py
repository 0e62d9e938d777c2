"""The command `doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from chatpipe.cli.errors import exit_on_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chatpipe.diagnosis.findings import Finding


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
    with exit_on_error():
        findings = []
        for finding in _findings(check):
            findings.append(finding)
            if not as_json:
                remedy = f"; {finding.remedy}" if finding.remedy else ""
                typer.echo(f"{finding.state:8}{finding.name}: {finding.text}{remedy}")
        if as_json:
            typer.echo(json.dumps([finding.model_dump() for finding in findings], indent=1))
        if any(finding.state == "fault" for finding in findings):
            raise typer.Exit(1)


def _findings(check: bool | None) -> Iterator[Finding]:
    import torch

    from chatpipe.diagnosis.machine import machine_findings
    from chatpipe.server.state import server_findings

    machine = list(machine_findings())
    yield from machine
    yield from server_findings()
    is_usable = not any(finding.state == "fault" for finding in machine)
    if check or (check is None and torch.cuda.is_available() and is_usable):
        from chatpipe.diagnosis.rates import measured_rates
        from chatpipe.diagnosis.self_check import check_kernels

        yield from measured_rates()
        yield from check_kernels()

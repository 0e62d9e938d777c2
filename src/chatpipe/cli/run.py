"""Runs a variant or a study from the command line: in this process, or on a deployment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from chatpipe.errors import ConfigError, IncompleteStudyError, ServiceError
from chatpipe.server.errors import require_server

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from chatpipe.config.schema import Study, Variant
    from chatpipe.report import Report
    from chatpipe.utils.texts import Language


@dataclass(frozen=True)
class RunOptions:
    """How to run: here or on a deployment, waiting for it or not; tables or JSON; of a study, how
    many variants are trained at most; the language of a further copy of the report."""

    deployment: bool = False
    watch: bool = False
    as_json: bool = False
    limit: int | None = None
    lang: Language = "en"

    def __post_init__(self) -> None:
        """ConfigError where one option needs another."""
        if self.watch and not self.deployment:
            raise ConfigError(
                ["--watch: needs --deployment; without it, the command waits for the run anyway."]
            )
        if self.deployment and self.lang != "en":
            raise ConfigError(
                [
                    "--lang: goes without --deployment; when the run has ended, write "
                    f"`chatpipe report NAME --lang {self.lang}`."
                ]
            )


def run_variant(variant: Variant, options: RunOptions) -> None:
    """Run the flow `finetune`."""
    if options.deployment:
        from chatpipe.config.run_names import plain_name

        _submit(
            f"finetune/{plain_name(variant.name)}", variant.model_dump(mode="json"), options.watch
        )
        return
    check_variants([variant])

    from flows.finetune import finetune

    _run_flow(lambda: finetune(**variant.sections()), variant.name, options)


def run_study(study: Study, variants: list[Variant], options: RunOptions) -> None:
    """Run the flow `compare`, of the variants within the limit."""
    from chatpipe.study.selection import select, trained_names

    trained = set() if options.limit is None else trained_names(variants)
    selection = select(variants, options.limit, trained)
    if not selection.chosen:
        raise ConfigError([f"--limit 0: no variant of {study.name} is trained yet; raise it."])
    notes = _notes_on_left(selection.left, len(variants))
    if options.deployment:
        settings = [variant.model_dump(mode="json") for variant in selection.chosen]
        from chatpipe.config.run_names import plain_name

        parameters = {"study": study.name, "variants": settings}
        parameters |= {"notes": list(notes)} if notes else {}
        _submit(f"compare/{plain_name(study.name)}", parameters, options.watch)
        return
    check_variants(variants)

    from flows.compare import compare

    _run_flow(lambda: compare(study.name, selection.chosen, notes=notes), study.name, options)
    if not options.as_json:
        for note in notes:
            typer.echo(note)


def _notes_on_left(left: Sequence[Variant], variants: int) -> tuple[str, ...]:
    """Return what a report says of the variants that are left for later."""
    if not left:
        return ()
    return (
        f"This report is without {len(left)} of {variants} variants, which the same command trains "
        "next.",
    )


def check_variants(variants: Sequence[Variant]) -> None:
    """ConfigError with all faults of the variants that can be found before a download; a fault that
    several of them have is named once."""
    from chatpipe.planning.checks import variant_faults
    from chatpipe.utils.sentences import listed

    names: dict[str, list[str]] = {}
    for variant in variants:
        for fault in dict.fromkeys(variant_faults(variant)):
            names.setdefault(fault, []).append(variant.name)
    if names:
        raise ConfigError([f"{listed(of, 1)}: {fault}" for fault, of in names.items()])


def _run_flow(run_flow: Callable[[], object], name: str, options: RunOptions) -> None:
    """Run a flow in this process; print its report's tables and path."""
    from chatpipe.cli.console import quiet_console
    from chatpipe.cli.interrupts import end_at_second_interrupt
    from chatpipe.cli.temporary_server import prepare_temporary_server
    from chatpipe.report import read_report
    from chatpipe.study.export import report_directory, translate_report, translation

    end_at_second_interrupt()
    quiet_console()
    prepare_temporary_server()
    incomplete: IncompleteStudyError | None = None
    try:
        run_flow()
    except IncompleteStudyError as error:  # raised below its report
        incomplete = error
    directory = report_directory(name)
    if options.lang != "en":
        translate_report(directory, options.lang)
    report = read_report(directory)
    if options.as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        _print_report(report, translation(directory, options.lang))
    if incomplete:
        raise incomplete


def _print_report(report: Report, page: Path) -> None:
    """Print the report's tables, how many steps were run, and where the page is."""
    from chatpipe.cli.console import print_report
    from chatpipe.utils.quantities import count_of
    from tasks.caching import BUILT, HITS

    print_report(report)
    cached = len(HITS.difference(BUILT))
    steps = (
        f"{count_of(len(BUILT), 'step')} run, {cached} cached" if BUILT else "everything was cached"
    )
    typer.echo(f"\n{steps}\nreport: {page}")


def _submit(deployment: str, parameters: dict[str, Any], watch: bool) -> None:
    """Start a run of a deployment on the server; print its page."""
    require_server()

    import asyncio

    from prefect.deployments import arun_deployment
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.urls import url_for

    from flows.workers import pool_without_worker

    try:
        run = asyncio.run(arun_deployment(deployment, parameters=parameters, timeout=0))
    except (ObjectNotFound, ValueError):
        name = deployment.partition("/")[2]
        raise ServiceError(
            f"{deployment}: is not on the server; put it there with `chatpipe deploy {name}` (or "
            "its file)."
        ) from None
    typer.echo(f"{deployment}: {url_for('flow-run', run.id)}")
    if pool := pool_without_worker(deployment):
        typer.echo(
            f"no worker of the work pool {pool} is online: the run waits until one is; start one "
            "with `chatpipe up` on this machine, or as docs/deployments.md says.",
            err=True,
        )
    if watch:
        _wait_for(run.id)


def _wait_for(run_id: Any) -> None:
    import asyncio

    from prefect.flow_runs import wait_for_flow_run

    run: FlowRun = asyncio.run(wait_for_flow_run(run_id, timeout=None))
    state = run.state
    typer.echo(f"{run.name}: {state.name if state else 'without a state'}")
    if state is None or not state.is_completed():
        raise ServiceError((state and state.message) or "the run did not complete.")

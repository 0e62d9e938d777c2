"""The app `chatpipe`: demo, compare, run, plan, validate and show; it registers the others."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from chatpipe.cli import (
    chat,
    finetune,
    forget,
    preview,
    reevaluation,
    server,
    standard_output,
    verify,
)
from chatpipe.cli.errors import STOPPED_SENTENCE, exit_on_error
from chatpipe.cli.options import (
    AsJson,
    OptionalVariantOrStudy,
    Overrides,
    StudyName,
    VariantName,
    VariantOrStudy,
)
from chatpipe.cli.run import RunOptions, check_variants, run_study, run_variant
from chatpipe.errors import ConfigError, OutputError
from chatpipe.runtime import variables
from chatpipe.server import environment
from chatpipe.utils.user_paths import fault_as_directory
from chatpipe.utils.visible_text import visible_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Start with: chatpipe demo",
)
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # beside Ctrl-C
OnDeployment = Annotated[
    bool, typer.Option("--deployment", help="Run on a worker of the server, not in this process.")
]
Watch = Annotated[
    bool, typer.Option("--watch", help="With --deployment: wait until the run has ended.")
]


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"chatpipe {version('chatpipe')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Fine-tune a base model on several data sets, and compare the results in one report."""


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Run the packaged study: a 135M base model trained on instructions, on dialogues, on both."""
    compare("demo", as_json=as_json)


@app.command()
def compare(
    study: StudyName,
    overrides: Overrides = None,
    deployment: OnDeployment = False,
    watch: Watch = False,
    as_json: AsJson = False,
) -> None:
    """Run every variant of a study and write one report."""
    with exit_on_error():
        from chatpipe.config.run_names import rename_study
        from chatpipe.study.studies import load_study, study_variants

        study_settings = load_study(study)
        variants = study_variants(study_settings, overrides or [], study)
        run_study(
            rename_study(study_settings, variants), variants, RunOptions(deployment, watch, as_json)
        )


@app.command()
def run(
    variant: VariantName,
    overrides: Overrides = None,
    deployment: OnDeployment = False,
    watch: Watch = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a variant, score it, answer its prompts, write a report; skips cached steps."""
    with exit_on_error():
        from chatpipe.study.loading import load_variant

        variant_settings = load_variant(variant, overrides or [])
        run_variant(variant_settings, RunOptions(deployment, watch, as_json))


@app.command()
def plan(variant: VariantOrStudy, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show the steps, time and memory of a run, and what would make it fail; trains nothing."""
    with exit_on_error():
        from chatpipe.runtime.environment import prepare
        from chatpipe.study.loading import load_variant
        from chatpipe.study.studies import is_study

        if is_study(variant):
            _plan_study(variant, overrides or [], as_json)
            return
        variant_settings = load_variant(variant, overrides or [])
        check_variants([variant_settings])
        prepare()

        from chatpipe.cli.plan_view import print_plan
        from chatpipe.planning import planner

        estimate = planner.plan(variant_settings)
        typer.echo(estimate.model_dump_json(indent=1)) if as_json else print_plan(estimate)
        planner.refuse([estimate])


def _plan_study(name: str, overrides: list[str], as_json: bool) -> None:
    from chatpipe.runtime.environment import prepare
    from chatpipe.study.studies import load_study, study_variants

    study = load_study(name)
    variants = study_variants(study, overrides, name)
    check_variants(variants)
    prepare()

    from chatpipe.cli.study_plan_view import print_study_plan
    from chatpipe.planning import planner
    from chatpipe.planning.study_plan import plan_study

    estimate = plan_study(study.name, variants)
    typer.echo(estimate.model_dump_json(indent=1)) if as_json else print_study_plan(estimate)
    planner.refuse(list(estimate.plans))


@app.command()
def validate(
    file: Annotated[
        Path, typer.Argument(help="YAML file of a variant or a study, or a file of rows.")
    ],
) -> None:
    """Check a variant, a study or a file of rows; print all faults, exit code 2 if any."""
    with exit_on_error():
        from chatpipe.planning.row_checks import check_rows, checked_rows, format_of, no_file
        from chatpipe.study.loading import load_variant
        from chatpipe.study.studies import is_study, load_study, study_variants

        if not file.is_file():
            raise ConfigError([f"{file}: {no_file(file)}."])
        if file.suffix not in {".yaml", ".yml"}:
            row_format = format_of(file)
            checked = checked_rows(file, row_format, {})
            if faults := checked.faults(file):
                raise ConfigError(faults)
            for line in checked.notes(file):
                typer.echo(visible_line(line))
            typer.echo(visible_line(f"{file}: every row is fine ({row_format})."))
            return
        name = str(file)
        variants = (
            study_variants(load_study(name), origin=name)
            if is_study(name)
            else [load_variant(name)]
        )
        check_variants(variants)
        rows = check_rows(variants)
        for line in (*rows.notes, *rows.set_aside):
            typer.echo(visible_line(line))
        aside = ", but a run sets these rows aside" if rows.set_aside else ""
        typer.echo(visible_line(f"{file}: fine{aside}."))


@app.command()
def show(
    variant: OptionalVariantOrStudy = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """List variants and studies, or show what one is and what the store has of it."""
    with exit_on_error():
        from chatpipe.study import inspect
        from chatpipe.study.studies import is_study

        if variant is None and overrides:
            raise ConfigError(["show: --set goes with a variant; name one."])
        if variant is None:
            listing = inspect.list_all()
        elif is_study(variant):
            listing = inspect.describe_study(variant, overrides or [])
        else:
            listing = inspect.describe_variant(variant, overrides or [])
        if as_json:
            typer.echo(json.dumps(listing, indent=1))
        else:
            inspect.print_mapping(listing)


for _command in (
    preview.preview,
    finetune.finetune,
    chat.ask,
    chat.chat,
    forget.forget,
    server.deploy,
    server.up,
    server.down,
    reevaluation.reevaluate,
    reevaluation.history,
    reevaluation.accept,
    verify.verify,
):
    app.command()(_command)


def _check_store_paths() -> None:
    for name in ("CHATPIPE_HOME", "CHATPIPE_SHARED_STORE"):
        path = os.environ.get(name, "")
        if fault := "" if "://" in path else fault_as_directory(Path(path)):
            raise ConfigError([f"{name}={path}: {fault}; name a directory."])


def _check_directory() -> None:
    """ConfigError where the working directory was removed: relative paths have no meaning then."""
    try:
        Path.cwd()
    except OSError:
        raise ConfigError(["the working directory was removed; change to another."]) from None


def _run_app() -> None:
    # Not standalone: typer would draw a box around a sentence on an unknown command or option.
    code = app(prog_name="chatpipe", standalone_mode=False)
    standard_output.flush()
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def main() -> None:
    """The `chatpipe` command."""
    # Exit as by Ctrl-C, so that what the command started, like a temporary server, ends with it.
    for ending_signal in ENDING_SIGNALS:
        if signal.getsignal(ending_signal) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(ending_signal, lambda number, _: sys.exit(128 + number))
    standard_output.raise_output_errors()
    try:
        with exit_on_error():
            _check_directory()
            environment.prepare()
            environment.make_paths_absolute()
            _check_store_paths()
            if faults := [*environment.proxy_faults(), *variables.variable_faults()]:
                raise ConfigError(faults)
            _run_app()
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except SystemExit as end:
        if end.code in {128 + number for number in ENDING_SIGNALS}:
            with suppress(OSError):  # with SIGHUP, the terminal is gone
                typer.echo(STOPPED_SENTENCE, err=True)
        raise
    finally:
        try:
            standard_output.flush()
        except (
            OSError,
            OutputError,
        ):  # the reader has ended, or the disk is full
            standard_output.discard()


if __name__ == "__main__":
    main()

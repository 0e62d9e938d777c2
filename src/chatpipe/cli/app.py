"""The app `chatpipe`: demo, compare, run and show; it registers the others."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from chatpipe.cli import (
    chat,
    doctor,
    export,
    finetune,
    forget,
    import_adapter,
    plan,
    preview,
    rate,
    reevaluation,
    report,
    serve,
    server,
    standard_output,
    validate,
    verify,
)
from chatpipe.cli.errors import STOPPED_SENTENCE, exit_on_error
from chatpipe.cli.options import (
    AsJson,
    Lang,
    Limit,
    OptionalVariantOrStudy,
    Overrides,
    StudyName,
    VariantName,
)
from chatpipe.cli.run import RunOptions, run_study, run_variant
from chatpipe.errors import ConfigError, OutputError
from chatpipe.runtime import variables
from chatpipe.server import environment
from chatpipe.utils.user_paths import fault_as_directory

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
def demo(as_json: AsJson = False, lang: Lang = "en") -> None:
    """Run the packaged study: a 135M base model trained on instructions, on dialogues, on both."""
    compare("demo", as_json=as_json, lang=lang)


@app.command()
def compare(
    study: StudyName,
    overrides: Overrides = None,
    limit: Limit = None,
    deployment: OnDeployment = False,
    watch: Watch = False,
    as_json: AsJson = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is missing, as without this option.")
    ] = False,
    lang: Lang = "en",
) -> None:
    """Run every variant of a study and write one report; skips what is stored."""
    with exit_on_error():
        from chatpipe.config.run_names import rename_study
        from chatpipe.study.studies import load_study, study_variants

        study_settings = load_study(study)
        variants = study_variants(study_settings, overrides or [], study)
        options = RunOptions(deployment, watch, as_json, limit, lang)
        run_study(rename_study(study_settings, variants), variants, options)


@app.command()
def run(
    variant: VariantName,
    overrides: Overrides = None,
    deployment: OnDeployment = False,
    watch: Watch = False,
    as_json: AsJson = False,
    lang: Lang = "en",
) -> None:
    """Fine-tune a variant, score it, answer its prompts, write a report; skips cached steps."""
    with exit_on_error():
        from chatpipe.study.loading import load_variant

        variant_settings = load_variant(variant, overrides or [])
        run_variant(variant_settings, RunOptions(deployment, watch, as_json, lang=lang))


@app.command()
def show(
    variant: OptionalVariantOrStudy = None,
    overrides: Overrides = None,
    dropped: Annotated[
        bool,
        typer.Option(
            "--dropped", help="Print the rows that its run set aside, one as JSON a line."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List variants and studies, or show what one is and what the store has of it."""
    with exit_on_error():
        from chatpipe.study import inspect
        from chatpipe.study.studies import check_name, is_study

        if variant is None and overrides:
            raise ConfigError(["show: --set goes with a variant; name one."])
        if dropped:
            _print_dropped(variant, overrides or [])
            return
        if variant is None:
            listing = inspect.list_all()
        else:
            check_name(variant)
            describe = inspect.describe_study if is_study(variant) else inspect.describe_variant
            listing = describe(variant, overrides or [])
        if as_json:
            typer.echo(json.dumps(listing, indent=1))
        else:
            inspect.print_mapping(listing)


def _print_dropped(name: str | None, overrides: Sequence[str]) -> None:
    from chatpipe.study.dropped_rows import dropped_rows
    from chatpipe.study.loading import load_variant

    if name is None:
        raise ConfigError(["show: --dropped goes with a variant; name one."])
    for row in dropped_rows(load_variant(name, overrides, must_exist=False)):
        typer.echo(json.dumps(row, ensure_ascii=False))


for _command in (
    plan.plan,
    validate.validate,
    preview.preview,
    finetune.finetune,
    chat.ask,
    chat.chat,
    serve.serve,
    rate.rate,
    export.export,
    forget.forget,
    report.report,
    server.deploy,
    server.up,
    server.down,
    reevaluation.reevaluate,
    reevaluation.history,
    reevaluation.accept,
    verify.verify,
    doctor.doctor,
):
    app.command()(_command)
app.command("import")(import_adapter.import_adapter)


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

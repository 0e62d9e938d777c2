"""The command line: starts the stories, and shows what came of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from chatpipe.cli import chat, finetune, forget, reevaluation, server, standard_output, verify
from chatpipe.cli.errors import STOPPED_SENTENCE, exit_on_error
from chatpipe.cli.options import AsJson, OptionalVariant, Overrides, StudyName, VariantName
from chatpipe.cli.run import RunOptions, check, run_study, run_variant
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
    bool, typer.Option("--deployment", help="Run it on the server's worker, not here.")
]
Watch = Annotated[bool, typer.Option("--watch", help="With --deployment: wait for its end.")]


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"chatpipe {version('chatpipe')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """What does a base model gain from this data set, from that one, from both?"""


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Run the embedded study: a 135M base on instructions, on dialogues, and on both."""
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
        from chatpipe.study.loading import load_study, study_variants

        found = load_study(study)
        variants = study_variants(found, overrides or [], study)
        run_study(rename_study(found, variants), variants, RunOptions(deployment, watch, as_json))


@app.command()
def run(
    variant: VariantName,
    overrides: Overrides = None,
    deployment: OnDeployment = False,
    watch: Watch = False,
    as_json: AsJson = False,
) -> None:
    """Run one variant: fine-tune, score, ask, report; cached steps are not done again."""
    with exit_on_error():
        from chatpipe.study.loading import load_variant

        found = load_variant(variant, overrides or [])
        run_variant(found, RunOptions(deployment, watch, as_json))


@app.command()
def plan(variant: VariantName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run would do, cost and need, and refuse what cannot work; nothing is trained."""
    with exit_on_error():
        from chatpipe.runtime.environment import prepare
        from chatpipe.study.loading import load_variant

        found = load_variant(variant, overrides or [])
        check([found])
        prepare()

        from chatpipe.cli.plan_view import print_plan
        from chatpipe.planning import planner

        made = planner.plan(found)
        typer.echo(made.model_dump_json(indent=1)) if as_json else print_plan(made)
        planner.refuse([made])


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A variant's or study's YAML, or a row file.")],
) -> None:
    """Check a file without running anything; all faults at once, exit code 2 if any."""
    with exit_on_error():
        from chatpipe.planning.row_checks import check_rows, checked_rows, format_of, no_file
        from chatpipe.study.loading import load_study, load_variant, study_variants

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
        is_study = _is_study(file)
        variants = (
            study_variants(load_study(name), origin=name) if is_study else [load_variant(name)]
        )
        check(variants)
        rows = check_rows(variants)
        for line in (*rows.notes, *rows.set_aside):
            typer.echo(visible_line(line))
        aside = ", but a run sets these rows aside" if rows.set_aside else ""
        typer.echo(visible_line(f"{file}: fine{aside}."))


@app.command()
def show(
    variant: OptionalVariant = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """List variants and studies, or one variant's settings and what the store has of it."""
    with exit_on_error():
        from chatpipe.study import inspect

        if variant is None and overrides:
            raise ConfigError(["show: --set goes with a variant; name one."])
        listed = inspect.variant(variant, overrides or []) if variant else inspect.everything()
        if as_json:
            typer.echo(json.dumps(listed, indent=1))
        else:
            inspect.print_mapping(listed)


def _is_study(file: Path) -> bool:
    from chatpipe.config.yaml_files import read_mapping

    return "variants" in read_mapping(file)


for _command in (
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


def _check_places() -> None:
    for name in ("CHATPIPE_HOME", "CHATPIPE_SHARED_STORE"):
        place = os.environ.get(name, "")
        if fault := "" if "://" in place else fault_as_directory(Path(place)):
            raise ConfigError([f"{name}={place}: {fault}; name a directory."])


def _check_directory() -> None:
    """ConfigError where the working directory was removed: nothing can be found from there."""
    try:
        Path.cwd()
    except OSError:
        raise ConfigError(["the working directory is not there any more; go to another."]) from None


def _run_app() -> None:
    # Not standalone: typer would draw a box around a sentence on an unknown command or option.
    code = app(prog_name="chatpipe", standalone_mode=False)
    standard_output.flush()
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def main() -> None:
    """The `chatpipe` command."""
    # As by Ctrl-C, whoever asks: what the command started, like a server of its own, ends with it.
    for asked in ENDING_SIGNALS:
        if signal.getsignal(asked) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(asked, lambda number, _: sys.exit(128 + number))
    standard_output.name_failures()
    try:
        with exit_on_error():
            _check_directory()
            environment.prepare()
            environment.make_places_absolute()
            _check_places()
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
        except (OSError, OutputError):  # nobody reads it, or its disk is full: that was said
            standard_output.discard()


if __name__ == "__main__":
    main()

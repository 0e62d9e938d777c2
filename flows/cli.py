"""The command line: starts the stories, and shows what came of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import unicodedata
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from chatpipe.errors import ConfigError
from flows import environment, forget_cli, reevaluate_cli, service_cli, verify_cli
from flows.options import AsJson, OptionalVariant, Overrides, StudyName, VariantName
from flows.refusals import BAD_INPUT, refusals
from flows.running import Way, check, run_study, run_variant

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Start with: chatpipe demo",
)
OnDeployment = Annotated[
    bool, typer.Option("--deployment", help="Run it on the server's worker, not here.")
]
Watch = Annotated[bool, typer.Option("--watch", help="With --deployment: wait for its end.")]
LONGEST_NAME = 60  # of what a file of rows is called as a data set
OWN = "The variant's own, where left out."
MaxNewTokens = Annotated[int | None, typer.Option(help=OWN)]
Temperature = Annotated[float | None, typer.Option(help=f"0 is greedy. {OWN}")]
Seed = Annotated[int | None, typer.Option(help=f"Of what is drawn. {OWN}")]


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
    with refusals():
        from chatpipe.loading import load_study, study_variants
        from chatpipe.run_names import rename_study

        found = load_study(study)
        variants = study_variants(found, overrides or [])
        run_study(rename_study(found, variants), variants, Way(deployment, watch, as_json))


@app.command()
def run(
    variant: VariantName,
    overrides: Overrides = None,
    deployment: OnDeployment = False,
    watch: Watch = False,
    as_json: AsJson = False,
) -> None:
    """Run one variant: fine-tune, score, ask, report; cached steps are not done again."""
    with refusals():
        from chatpipe.loading import load_variant

        found = load_variant(variant, overrides or [])
        run_variant(found, Way(deployment, watch, as_json))


@app.command()
def plan(variant: VariantName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run would do, cost and need, and refuse what cannot work; nothing is trained."""
    with refusals():
        from chatpipe.libraries import prepare
        from chatpipe.loading import load_variant

        found = load_variant(variant, overrides or [])
        check([found])
        prepare()

        from chatpipe import planning
        from flows.plan_view import print_plan

        made = planning.plan(found)
        typer.echo(made.model_dump_json(indent=1)) if as_json else print_plan(made)
        planning.refuse([made])


@app.command()
def finetune(
    base_model: Annotated[str, typer.Option(help="Hub repository or model directory.")],
    dataset: Annotated[Path, typer.Option(help="JSON, JSONL, CSV or Parquet rows.")],
    adapter: Annotated[Path, typer.Option(help="Where to copy the adapter to.")],
    overrides: Overrides = None,
    drop_bad_rows: Annotated[
        bool, typer.Option(help="Set bad rows aside and count them, instead of refusing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune without any YAML: one base, one file of rows, one adapter directory."""
    with refusals():
        from chatpipe.export import check_target, export_directory, export_variant
        from chatpipe.loading import parse_variant
        from chatpipe.published import find
        from chatpipe.row_checks import format_of, row_faults

        if not dataset.is_file():
            raise ConfigError([f"--dataset {dataset}: there is no such file."])
        if adapter.exists() and (not adapter.is_dir() or any(adapter.iterdir())):
            raise ConfigError([f"--adapter {adapter}: is not empty; name a new directory."])
        row_format = format_of(dataset)
        if not drop_bad_rows and (faults := row_faults(dataset, row_format, {})):
            raise ConfigError([*faults, "Mend these rows, or add --drop-bad-rows."])
        name = _as_name(dataset.stem)
        rows = {"name": name, "path": str(dataset.absolute()), "format": row_format}
        raw = {"name": name, "base_model": {"repo": base_model}, "datasets": [rows]}
        variant = parse_variant(raw, "command line", overrides or [])
        check_target(adapter, variant)
        run_variant(variant, Way(as_json=as_json))
        export_directory(find(variant)[1].path, adapter)
        saved = export_variant(variant)
        if not as_json:
            typer.echo(f"adapter: {adapter}\nvariant: {saved} (for run, ask and chat)")


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A variant's or study's YAML, or a row file.")],
) -> None:
    """Check a file without running anything; all faults at once, exit code 2 if any."""
    with refusals():
        from chatpipe.loading import load_study, load_variant, study_variants
        from chatpipe.row_checks import check_rows, checked_rows, format_of

        if not file.is_file():
            what = "is a directory; name a file" if file.is_dir() else "there is no such file"
            raise ConfigError([f"{file}: {what}."])
        if file.suffix not in {".yaml", ".yml"}:
            row_format = format_of(file)
            checked = checked_rows(file, row_format, {})
            if faults := checked.faults(file) if checked.rows else [f"{file}: has no rows."]:
                raise ConfigError(faults)
            for line in checked.notes(file):
                typer.echo(line)
            typer.echo(f"{file}: every row is fine ({row_format}).")
            return
        study = _is_study(file)
        variants = study_variants(load_study(str(file))) if study else [load_variant(str(file))]
        check(variants)
        rows = check_rows(variants)
        for line in (*rows.notes, *rows.set_aside):
            typer.echo(line)
        typer.echo(f"{file}: fine{', but a run sets these rows aside' if rows.set_aside else ''}.")


@app.command()
def show(
    variant: OptionalVariant = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """List variants and studies, or one variant's settings and what the store has of it."""
    with refusals():
        from chatpipe import listing

        if variant is None and overrides:
            raise ConfigError(["show: --set goes with a variant; name one."])
        listed = listing.variant(variant, overrides or []) if variant else listing.everything()
        if as_json:
            typer.echo(json.dumps(listed, indent=1))
        else:
            listing.print_mapping(listed)


@app.command()
def ask(
    variant: VariantName,
    prompt: Annotated[str, typer.Argument(help="The instruction.")],
    input_text: Annotated[str, typer.Option("--input", help="The instruction's input.")] = "",
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    overrides: Overrides = None,
) -> None:
    """Ask a variant one question, as its panel is asked."""
    with refusals():
        generation = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        conversation, settings = _conversation(variant, overrides or [], generation)
        for piece in conversation.reply(prompt, settings, input_text):
            typer.echo(piece, nl=False)
        typer.echo()


@app.command()
def chat(
    variant: VariantName,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    overrides: Overrides = None,
) -> None:
    """Talk with a variant; an empty line or Ctrl-D ends it, Ctrl-C stops a reply."""
    with refusals():
        generation = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        conversation, settings = _conversation(variant, overrides or [], generation)
        typer.echo(f"{variant}: an empty line or Ctrl-D ends the chat, Ctrl-C stops a reply.")
        for line in _lines():
            replies = conversation.reply(line, settings)
            try:
                for piece in replies:
                    typer.echo(piece, nl=False)
            except KeyboardInterrupt:
                replies.close()
                typer.echo(" …", nl=False)
            typer.echo()


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if not line:
            return
        yield line


def _conversation(
    name: str, overrides: list[str], generation: dict[str, float | None]
) -> tuple[Any, Any]:
    """(a conversation with that variant, its settings of `generation` with these laid over)."""
    from chatpipe.artifacts import store
    from chatpipe.libraries import prepare
    from chatpipe.loading import load_variant
    from chatpipe.published import find

    given = [f"generation.{key}={value}" for key, value in generation.items() if value is not None]
    settings = load_variant(name, [*overrides, *given]).generation
    # What is asked for here is no part of the run: the adapter is the same, and so is its name.
    variant = load_variant(name, overrides)
    base, adapter = map(store().bring, find(variant))
    prepare()

    from chatpipe.chatting import Conversation

    conversation = Conversation(
        base.path, adapter.path, variant.quantization, variant.prompt_template
    )
    return conversation, settings


def _is_study(file: Path) -> bool:
    from chatpipe.yaml_files import read_mapping

    return "variants" in read_mapping(file)


def _as_name(text: str) -> str:
    """A name for rows out of a file's: where it is cut, or has letters that names cannot have, a
    digest of all of it keeps it apart from others."""
    plain = unicodedata.normalize("NFKD", text.lower())
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in plain)
    name = kept[:LONGEST_NAME].strip("-") or "rows"
    if text.isascii() and len(text) <= LONGEST_NAME:
        return name
    return f"{name}-{sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


for _command in (
    forget_cli.forget,
    service_cli.deploy,
    service_cli.up,
    service_cli.down,
    reevaluate_cli.reevaluate,
    reevaluate_cli.history,
    reevaluate_cli.accept,
    verify_cli.verify,
):
    app.command()(_command)


def _absolute_places() -> None:
    """Workers and servers that this process starts run in other directories."""
    for name in ("CHATPIPE_HOME", "CHATPIPE_DEPLOYMENTS", "CHATPIPE_SHARED_STORE"):
        place = os.environ.get(name)
        if place and "://" not in place:
            os.environ[name] = str(Path(place).expanduser().absolute())


def main() -> None:
    """The `chatpipe` command."""
    # As by Ctrl-C, whoever asks: what the command started, like a server of its own, ends with it.
    for asked in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(asked) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(asked, lambda number, _: sys.exit(128 + number))
    environment.prepare()
    _absolute_places()
    if faults := environment.proxy_faults():
        typer.echo("\n".join(faults), err=True)
        sys.exit(BAD_INPUT)
    app()


if __name__ == "__main__":
    main()

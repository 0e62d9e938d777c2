"""The command `finetune`: one base, one source of rows, one adapter, without any YAML."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import AsJson, Overrides
from chatpipe.cli.run import RunOptions, check_variants, run_variant
from chatpipe.errors import ConfigError
from chatpipe.formats.turn_settings import Turns


def finetune(
    base_model: Annotated[str, typer.Option(help="Hub repository or model directory.")],
    dataset: Annotated[
        str,
        typer.Option(help="File of rows, directory that save_to_disk wrote, or hub data set."),
    ],
    adapter: Annotated[Path, typer.Option(help="New directory for the adapter.")],
    overrides: Overrides = None,
    config: Annotated[str | None, typer.Option(help="A config of the hub data set.")] = None,
    split: Annotated[
        str | None, typer.Option(help="A split, as datasets writes it: train, train[:5%].")
    ] = None,
    row_format: Annotated[
        str, typer.Option("--format", help="Format of the rows; auto: recognized by their columns.")
    ] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS", help="A format's column and the file's for it; repeatable."
        ),
    ] = None,
    turns: Annotated[
        Turns | None,
        typer.Option(
            help="What of a conversation is trained on: its first exchange, or all of it.",
        ),
    ] = None,
    drop_bad_rows: Annotated[
        bool, typer.Option(help="Leave bad rows out and count them, instead of refusing the file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune without any YAML: one base, one source of rows, one adapter directory."""
    with exit_on_error():
        from chatpipe.cli.finetune_rows import check_rows_of, source_settings
        from chatpipe.config.run_names import name_of_file, unique_name
        from chatpipe.config.schema import AUTO, format_names
        from chatpipe.config.validation import suggest_name
        from chatpipe.planning.row_checks import format_of, row_faults
        from chatpipe.store.new_directory import check_parent
        from chatpipe.study.export import check_target, export_directory, export_variant
        from chatpipe.study.lookup import find_model
        from chatpipe.study.variants import is_taken, parse_variant

        source = source_settings(dataset, config, split)
        file = Path(dataset) if Path(dataset).is_file() else None
        _check_adapter_directory(adapter)
        renamed = _renamed(columns or [])
        if row_format not in format_names():
            raise ConfigError(
                [f"--format {row_format}: {suggest_name(row_format, format_names())}"]
            )
        if file and row_format == AUTO:
            row_format = format_of(file, renamed)
        if file and not drop_bad_rows and (faults := row_faults(file, row_format, renamed, turns)):
            raise ConfigError([*faults, "Mend these rows, or add --drop-bad-rows."])
        name = name_of_file(Path(dataset))
        rows: dict[str, Any] = {"name": name, **source, "format": row_format}
        if renamed:
            rows["columns"] = renamed
        if turns:
            rows["turns"] = turns
        raw = {"name": name, "base_model": {"repo": base_model}, "datasets": [rows]}
        variant = parse_variant(raw, "command line", overrides or [])
        if is_taken(variant):  # by another base, another file of that name, or a variant
            read_as = [row_format, renamed, *([turns] if turns else [])]
            settings = [json.dumps(read_as)] if columns or turns else []
            unique = {**raw, "name": unique_name(name, base_model, *source.values(), *settings)}
            taken, variant = variant, parse_variant(unique, "command line", overrides or [])
            typer.echo(_other_name(taken.name, variant.name), err=True)
        check_target(adapter, variant)
        check_parent(adapter, "--adapter")  # not before: a source is not touched
        if not file:
            check_variants([variant])
            check_rows_of(variant.datasets[0], drop_bad_rows)
        run_variant(variant, RunOptions(as_json=as_json))
        from chatpipe.export.source import Source
        from chatpipe.runtime.environment import prepare

        prepare()  # for the tokenizer, which is read in this process
        model = Source(variant, find_model(variant))
        export_directory(model.adapter, adapter, model.write_tokenizer)
        saved = export_variant(variant)
        if not as_json:
            typer.echo(f"adapter: {adapter}\nvariant: {saved} (for run, ask and chat)")
            typer.echo(f'ask it: chatpipe ask {shlex.quote(variant.name)} "PROMPT"')


def _other_name(taken: str, name: str) -> str:
    """What to say of a run that cannot have the name of its file of rows."""
    from chatpipe.study.export import report_directory

    directory = report_directory(taken)
    holder = f"another run ({directory})" if directory.exists() else "a variant or a study"
    return f"the name {taken} is that of {holder}; this run is called {name}."


def _renamed(columns: list[str]) -> dict[str, str]:
    """Return our column → the file's, from `--columns OURS=THEIRS`."""
    from chatpipe.formats.registry import FORMATS

    renamed: dict[str, str] = {}
    names = {name for row_format in FORMATS.values() for name in row_format.columns}
    several = re.compile(rf",(?=(?:{'|'.join(sorted(names))})=)")  # a=b,c=d
    for text in [part for given in columns for part in several.split(given)]:
        ours, _, theirs = text.partition("=")
        if not ours or not theirs:
            raise ConfigError(
                [f"--columns {text}: write it as OURS=THEIRS, like instruction=question."]
            )
        if ours in renamed:
            raise ConfigError([f"--columns {text}: {ours} is given twice; give it once."])
        renamed[ours] = theirs
    return renamed


def _check_adapter_directory(adapter: Path) -> None:
    """ConfigError where the trained adapter could not be copied to that directory."""
    if adapter.is_dir() and any(adapter.iterdir()):
        raise ConfigError([f"--adapter {adapter}: is not empty; name a new directory."])
    if adapter.is_symlink() or (adapter.exists() and not adapter.is_dir()):
        kind = "a link" if adapter.is_symlink() else "a file"
        raise ConfigError([f"--adapter {adapter}: is {kind}; name a new directory."])

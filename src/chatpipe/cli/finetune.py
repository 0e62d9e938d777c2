"""The command `finetune`: one base, one file of rows, one adapter, without any YAML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import AsJson, Overrides
from chatpipe.cli.run import RunOptions, run_variant
from chatpipe.errors import ConfigError


def finetune(
    base_model: Annotated[str, typer.Option(help="Hub repository or model directory.")],
    dataset: Annotated[Path, typer.Option(help="File of rows: JSON, JSONL, CSV or Parquet.")],
    adapter: Annotated[Path, typer.Option(help="New directory for the adapter.")],
    overrides: Overrides = None,
    drop_bad_rows: Annotated[
        bool, typer.Option(help="Leave bad rows out and count them, instead of refusing the file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune without any YAML: one base, one file of rows, one adapter directory."""
    with exit_on_error():
        from chatpipe.config.run_names import name_of_file, unique_name
        from chatpipe.planning.row_checks import format_of, no_file, row_faults
        from chatpipe.study.export import check_target, export_directory, export_variant
        from chatpipe.study.loading import is_taken, parse_variant
        from chatpipe.study.lookup import find_adapter

        if not dataset.is_file():
            raise ConfigError([f"--dataset {dataset}: {no_file(dataset)}."])
        _check_adapter_directory(adapter)
        row_format = format_of(dataset)
        if not drop_bad_rows and (faults := row_faults(dataset, row_format, {})):
            raise ConfigError([*faults, "Mend these rows, or add --drop-bad-rows."])
        name = name_of_file(dataset)
        rows = {"name": name, "path": str(dataset.absolute()), "format": row_format}
        raw = {"name": name, "base_model": {"repo": base_model}, "datasets": [rows]}
        variant = parse_variant(raw, "command line", overrides or [])
        if is_taken(variant):  # by another base, another file of that name, or a variant
            unique = {**raw, "name": unique_name(name, base_model, rows["path"])}
            variant = parse_variant(unique, "command line", overrides or [])
        check_target(adapter, variant)
        run_variant(variant, RunOptions(as_json=as_json))
        export_directory(find_adapter(variant).path, adapter)
        saved = export_variant(variant)
        if not as_json:
            typer.echo(f"adapter: {adapter}\nvariant: {saved} (for run, ask and chat)")


def _check_adapter_directory(adapter: Path) -> None:
    """ConfigError where the trained adapter could not be copied to that directory."""
    if adapter.is_dir() and any(adapter.iterdir()):
        raise ConfigError([f"--adapter {adapter}: is not empty; name a new directory."])
    if adapter.is_symlink() or (adapter.exists() and not adapter.is_dir()):
        kind = "a link" if adapter.is_symlink() else "a file"
        raise ConfigError([f"--adapter {adapter}: is {kind}; name a new directory."])
    parent = next(path for path in adapter.absolute().parents if path.exists())
    if not parent.is_dir():
        raise ConfigError([f"--adapter {adapter}: {parent} is a file; name a new directory."])
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError([f"--adapter {adapter}: this user may not write in {parent}."])

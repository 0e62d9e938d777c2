"""The command `forget`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import OptionalVariantOrStudy, Overrides
from chatpipe.errors import ConfigError

if TYPE_CHECKING:
    from chatpipe.config.schema import Variant


def forget(
    variant: OptionalVariantOrStudy = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="What to remove: adapter (default), scores, generations, "
            "replies, task-scores, report, sources or all."
        ),
    ] = None,
    all_variants: Annotated[
        bool, typer.Option("--all", help="For all variants; without --kind, remove everything.")
    ] = False,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove artifacts, so that the next run builds them again; asks before --all and sources."""
    with exit_on_error():
        from chatpipe.study import removal
        from chatpipe.study.studies import load_variants
        from chatpipe.utils.quantities import count_of

        if (variant is None) == (not all_variants):
            raise ConfigError(["forget: name a variant or a study, or give --all."])
        if variant is None and overrides:
            raise ConfigError(["forget: --set goes with a variant, not with --all."])
        if kind is not None:
            removal.check_kind(kind)
        chosen = load_variants(variant, overrides or [], must_exist=False) if variant else []
        kind = kind or ("adapter" if chosen else removal.ALL)
        paths = (
            list(dict.fromkeys(p for one in chosen for p in removal.artifacts_of(one, kind)))
            if chosen
            else removal.all_artifacts(kind)
        )
        if not chosen or kind == removal.SOURCES:
            _confirm("forget --all" if variant is None else f"forget {variant}", paths, yes)
        removed = [*_remove_checkpoints(chosen, kind), *removal.remove(paths)]
        if variant and not removed:
            raise removal.missing(variant if len(chosen) > 1 else chosen[0].name, kind)
        typer.echo(f"forgotten: {count_of(len(removed), 'artifact')}")
        for name in removed:
            typer.echo(f"  {name}")


def _remove_checkpoints(chosen: Sequence[Variant], kind: str) -> list[str]:
    """Remove those of the chosen variants, or all where none is chosen."""
    from chatpipe.study import removal

    if kind not in ("adapter", removal.ALL):
        return []
    variants = chosen or (None,)
    return [name for variant in variants for name in removal.remove_checkpoints(variant)]


def _confirm(command: str, paths: Sequence[Path], yes: bool) -> None:
    """Ask for confirmation; ConfigError where there is no terminal to ask on."""
    if yes or not paths:
        return
    from chatpipe.store.store import store
    from chatpipe.utils.quantities import in_bytes

    size = sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())
    subject = f"{len(paths)} artifacts ({in_bytes(size)}) of {store().root}"
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError([f"{command}: would remove {subject}; add --yes to do so."])
    if not typer.confirm(f"{command}: remove {subject}?", err=True):
        raise ConfigError([f"{command}: nothing was removed."])

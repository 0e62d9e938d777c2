"""A study's file → the names of its variants, and the variants themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatpipe.config.run_names import SEPARATOR
from chatpipe.config.schema import Study, Variant
from chatpipe.config.yaml_files import is_yaml
from chatpipe.errors import ConfigError
from chatpipe.study.checks import study_faults
from chatpipe.study.export import saved_names, saved_variant
from chatpipe.study.files import find_file, is_study_file, names, suggest_file_or_run
from chatpipe.study.grid import Grid, read_study
from chatpipe.study.loading import load_variant
from chatpipe.study.overrides import parse_override


def load_study(name_or_path: str) -> Study:
    """Return the study of that name or file; of a grid, with the names of its cells."""
    study = read_study(find_file("studies", name_or_path))
    if isinstance(study, Study):
        return study
    cells = study.variants(must_exist=False)
    return Study(name=study.file.name, variants=tuple(cell.name for cell in cells))


def load_variants(
    name_or_path: str, overrides: Sequence[str] = (), must_exist: bool = True
) -> list[Variant]:
    """Return the variant of that name, file or run, or all variants of the study of that name or
    file; see `study_variants`."""
    check_name(name_or_path)
    if is_study(name_or_path):
        return study_variants(load_study(name_or_path), overrides, name_or_path, must_exist)
    return [load_variant(name_or_path, overrides, must_exist)]


def study_variants(
    study: Study,
    overrides: Sequence[str] = (),
    origin: str | None = None,
    must_exist: bool = True,
) -> list[Variant]:
    """Return all variants of a study; ConfigError has the faults of all of them together.

    Args:
        overrides: `key.path=value` settings for every variant.
        origin: The study's name or file, if it was read from one: a variant that is not there is
            that file's fault, and a variant may be one that only this file names.
        must_exist: Whether the rows of the variants have to be there.
    """
    path = find_file("studies", origin) if origin else None
    file = read_study(path) if path else study
    if isinstance(file, Grid):
        variants = file.variants([parse_override(text) for text in overrides], must_exist)
        faults: list[str] = []
    else:
        variants, faults = _listed_variants(study, overrides, path, must_exist)
    if variants:
        faults += [f"{study.name}: {fault}" for fault in study_faults(variants)]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return variants


def study_members(name_or_path: str) -> list[Variant]:
    """Return the variants that a study starts from: those of a grid without what it varies."""
    study = read_study(find_file("studies", name_or_path))
    if isinstance(study, Grid):
        return study.members()
    return study_variants(study, origin=name_or_path)


def is_study(name_or_path: str) -> bool:
    """Whether that name or file is a study's, and not a variant's."""
    if is_yaml(name_or_path) and Path(name_or_path).is_file():
        return is_study_file(Path(name_or_path))
    return name_or_path in names("studies") and name_or_path not in names("variants")


def check_name(name_or_path: str) -> None:
    """ConfigError for a plain name that neither a variant nor a study has."""
    existing = [*names("variants"), *names("studies")]
    is_plain = not any(mark in name_or_path for mark in (SEPARATOR, "/", "="))
    if not is_plain or is_yaml(name_or_path) or name_or_path in existing:
        return
    if not name_or_path.strip() or Path(name_or_path).exists():
        return  # `find_file` says what is wrong
    if not saved_variant(name_or_path).is_file():
        hint = suggest_file_or_run(name_or_path, existing, saved_names())
        raise ConfigError([f"{name_or_path}: is no variant and no study; {hint}"])


def _listed_variants(
    study: Study, overrides: Sequence[str], path: Path | None, must_exist: bool
) -> tuple[list[Variant], list[str]]:
    """(the variants that could be loaded, what is wrong with the others)."""
    file = f"{path}: " if path else ""
    variants: list[Variant] = []
    faults: list[str] = []
    for place, name in enumerate(study.variants):
        try:
            if SEPARATOR not in name:
                find_file("variants", name)
        except ConfigError as error:
            reasons = [fault.removeprefix("variants: ") for fault in error.faults]
            faults += [f"{file}variants.{place}: {reason}" for reason in reasons]
            continue
        try:
            variants.append(load_variant(name, overrides, must_exist))
        except ConfigError as error:
            faults += error.faults
    return variants, faults

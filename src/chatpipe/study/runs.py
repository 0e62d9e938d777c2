"""A variant by the name of a run: a file's, or that file's with the settings in the name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatpipe.config.run_names import SEPARATOR, cell_name, parse_settings, plain_name
from chatpipe.config.schema import Variant
from chatpipe.config.yaml_files import is_yaml
from chatpipe.errors import ConfigError
from chatpipe.study.export import saved_variant
from chatpipe.study.files import find_file, names
from chatpipe.study.overrides import Override
from chatpipe.study.variants import load_file


def load_run(
    name_or_path: str, overrides: Sequence[str | Override] = (), must_exist: bool = True
) -> Variant:
    """As `loading.load_variant`, but for the cells that only a study's file names."""
    name_or_path = cell_name(name_or_path)
    if is_setting_name(name_or_path):
        return _with_settings(name_or_path, overrides, must_exist)
    return load_file(find_file("variants", name_or_path), overrides, must_exist)


def is_setting_name(name_or_path: str) -> bool:
    """Whether it is the name of a run with other settings than its file has, `NAME+key=value`."""
    return SEPARATOR in name_or_path and not is_yaml(name_or_path)


def _with_settings(name: str, overrides: Sequence[str | Override], must_exist: bool) -> Variant:
    """The variant of a run with other settings: by what its name says, or as the run saved it."""
    saved = saved_variant(name)
    if not plain_name(name) or "" in parse_settings(name):
        raise ConfigError([f"{name}: write it as NAME+key.path=value, like +training.epochs=1."])
    if not saved.is_file() and not all("=" in setting for setting in parse_settings(name)):
        raise ConfigError(
            [
                f"{name}: this home has no run of that name, and the name does not say all of its "
                f"settings; write {plain_name(name)} with the run's --set KEY=VALUE."
            ]
        )
    try:
        variant = load_run(plain_name(name), parse_settings(name), must_exist)
    except ConfigError:
        if not saved.is_file():
            raise
        return load_file(saved, overrides, must_exist)
    if saved.is_file() and not _is_current(variant, name, saved, must_exist):
        return load_file(saved, overrides, must_exist)
    return load_run(plain_name(name), [*parse_settings(name), *overrides], must_exist)


def _is_current(variant: Variant, name: str, saved: Path, must_exist: bool) -> bool:
    """Whether the variant that a run's name spells is the one that the name stands for.

    It is where a file of `deployments/` has the plain name, which is read as it is now. Elsewhere
    the plain name is that of another run, whose base or rows may be others, so that what this run
    saved has to agree.
    """
    if variant.name != name:
        return False
    if plain_name(name) in names("variants"):
        return True
    return load_file(saved, must_exist=must_exist) == variant

"""A variant by any name that a command takes: of a file, of a run, of a study's cell."""

from __future__ import annotations

from collections.abc import Sequence

from chatpipe.config.run_names import cell_name
from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError
from chatpipe.study.export import saved_variant
from chatpipe.study.grid import find_cell
from chatpipe.study.overrides import Override
from chatpipe.study.runs import is_setting_name, load_run
from chatpipe.study.variants import parse_variant


def load_variant(
    name_or_path: str, overrides: Sequence[str | Override] = (), must_exist: bool = True
) -> Variant:
    """The variant of that name or file, with `key.path=value` overrides laid over it.

    With overrides that change something, its name says so (`run_names`); that name
    (`NAME+key=value`) is understood as well, also where only a study's file has a cell of it.
    must_exist: whether its rows have to be there.
    """
    try:
        return load_run(name_or_path, overrides, must_exist)
    except ConfigError:
        name = cell_name(name_or_path)
        is_cell = is_setting_name(name) and not saved_variant(name).is_file()
        cell = find_cell(name) if is_cell else None
        if cell is None:
            raise
    return parse_variant(cell.model_dump(mode="json"), name, overrides, must_exist)

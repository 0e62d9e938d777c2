"""Which format a file's rows have, by its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc

from chatpipe.config.schema import AUTO
from chatpipe.data.first_row import first_row
from chatpipe.data.preferences import verdict_fault
from chatpipe.data.reading import READ_REASON, RowFile
from chatpipe.errors import DataError
from chatpipe.formats.registry import FORMATS


def definite_format(name: str, files: Sequence[Path], columns: Mapping[str, str]) -> str:
    """Return the format of that name; of `auto`, what the first file that is not empty has."""
    if name != AUTO:
        return name
    return detected_format(next((f for f in files if f.stat().st_size), files[0]), columns)


def detected_format(path: Path, columns: Mapping[str, str]) -> str:
    """Return the first format whose required columns the file has and of which a row can be used.

    Args:
        path: a row file.
        columns: our column name → the file's; only formats that have all of ours are tried.

    Raises DataError that says what to write where there is none.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    _refuse_verdicts(path)
    fitting: list[str] = []
    problems: list[str] = []
    names: set[str] = set()
    for name in _candidates(path, columns):
        file = RowFile(path, FORMATS[name], dict(columns))
        try:
            for part in file.parts():
                if pc.any(pc.is_null(part()[READ_REASON])).as_py():
                    return name
            file.check()
        except DataError as error:
            problems.append(str(error))
        else:
            fitting.append(name)
        names |= file.found()
    if fitting:
        return _with_columns_of(names, fitting)
    raise DataError(_no_format(path, problems))


def _refuse_verdicts(path: Path) -> None:
    """DataError where the rows say that some of their replies are bad."""
    if fault := verdict_fault(first_row(path)):
        raise DataError(
            f"{path}: {fault}; keep the rows whose label is true, and write format: completion."
        )


def _candidates(path: Path, columns: Mapping[str, str]) -> list[str]:
    candidates = [
        name
        for name, file_format in FORMATS.items()
        if columns.keys() <= file_format.columns.keys()
    ]
    if not candidates:
        formats = ", ".join(f"{name} ({', '.join(f.columns)})" for name, f in FORMATS.items())
        raise DataError(
            f"{path}: columns: no format has {' and '.join(columns)} together; those of each "
            f"format are {formats}."
        )
    return candidates


def _with_columns_of(names: set[str], fitting: list[str]) -> str:
    """The format that the file's columns are of, though none of its rows is right."""
    return max(fitting, key=lambda name: len(names & FORMATS[name].columns.keys()))


def _no_format(path: Path, problems: list[str]) -> str:
    """What to say of a file that has the columns of no format: the most telling of the problems."""
    telling = [problem for problem in problems if " missing; " not in problem]
    return next(iter([*telling, *problems]), f"{path}: has no rows.")

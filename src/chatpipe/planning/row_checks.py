"""Row files, checked row by row before anything is run, in bounded memory (16 bytes a row)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from chatpipe.config.schema import AUTO, Dataset, Variant
from chatpipe.data.columns import format_note, listed, unused_warning
from chatpipe.data.detection import definite_format, detected_format
from chatpipe.data.folders import DEFAULT_PATTERNS, ROWS, left_out_warnings, row_files
from chatpipe.data.hashing import first_of_each, heldout_mask, joined_digests, row_digests
from chatpipe.data.merge import split_fault
from chatpipe.data.normalize import DUPLICATE, source_name
from chatpipe.data.reading import READ_REASON, RowFile
from chatpipe.data.row_details import row_details
from chatpipe.data.turn_counts import TurnAccount, TurnCounts
from chatpipe.data.writing import count_values, ordered
from chatpipe.errors import ConfigError, DataError, SourceError
from chatpipe.formats.base import FLAGS_BETWEEN, counted_reasons
from chatpipe.formats.registry import FORMATS
from chatpipe.formats.turn_settings import Turns, TurnSettings
from chatpipe.sources.joined_splits import refuse_joined_directory
from chatpipe.sources.local_paths import local_path
from chatpipe.sources.saved_rows import ReadSaved, is_saved
from chatpipe.store.store import store
from chatpipe.utils.quantities import count_of

SHOWN = 20  # bad rows that are named one by one; the rest is counted


@dataclass
class Checked:
    """How many rows were read and cannot be used, and the first of these: (number, reason). What
    is odd about rows that can be used is counted, and what is odd about the file is said."""

    rows: int = 0
    heldout: int = 0  # usable rows on the held-out side, where a share was given
    reasons: Counter[str] = field(default_factory=Counter)
    shown: list[tuple[int, str]] = field(default_factory=list)
    flagged: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    turns: TurnAccount | None = None  # of conversations
    repeated: int = 0  # rows with the texts of an earlier one of the file

    @property
    def bad(self) -> int:
        """How many rows cannot be used."""
        return self.reasons.total()

    def faults(self, path: Path) -> list[str]:
        """How many rows cannot be used, and why; then a line for each reason with the numbers of
        its rows, at most 20 of them."""
        if not self.rows:
            return [f"{path}: has no rows."]
        if not self.bad:
            return []
        rows = count_of(self.rows, "row")
        rows = f"{self.bad:,} of {rows}" if self.bad < self.rows else f"none of {rows}"
        can = "cannot" if self.bad < self.rows else "can"
        why = counted_reasons(ordered(self.reasons), self._common_details())
        numbers: dict[str, list[str]] = {}
        for number, reason in self.shown:
            numbers.setdefault(reason, []).append(f"{number:,}")
        lines = [
            f"{path}: row{'' if len(of) == 1 else 's'} {', '.join(of)}: {reason}."
            for reason, of in numbers.items()
        ]
        if self.bad > len(self.shown):
            lines.append(f"{path}: and {count_of(self.bad - len(self.shown), 'more row')}.")
        return [f"{path}: {rows} {can} be used: {why}.", *lines]

    def _common_details(self) -> dict[str, str]:
        """What rows of a reason have in common, as far as they are shown."""
        shown = {text for _, text in self.shown}
        return {
            reason: detail
            for reason, detail in self.details.items()
            if sum(text.startswith(reason) for text in shown) <= 1
        }

    def notes(self, path: Path) -> list[str]:
        """How many rows were read, and what is odd but no fault."""
        flags = [f"{count_of(rows, 'row')}: {flag}" for flag, rows in ordered(self.flagged).items()]
        read = f"{count_of(self.rows, 'row')} read"
        if self.turns:
            read += (
                f" with {count_of(self.turns.read, 'turn')}, of which {self.turns.kept:,} are kept "
                f"and {self.turns.replies:,} are replies"
            )
        if self.repeated:
            flags.append(f"{count_of(self.repeated, 'row')}: {DUPLICATE} of an earlier one")
        count = read + "".join(f"; {flag}" for flag in flags)
        return [f"{path}: {count}.", *self.warnings]


def no_file(path: Path) -> str:
    """What to say of a path that is no file."""
    if path.is_dir():
        return "is a directory; name a file"
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which is not there"
    return "is no regular file; name one" if path.exists() else "there is no such file"


def row_faults(
    path: Path, format_name: str, columns: dict[str, str], turns: Turns | None = None
) -> list[str]:
    """The rows of the file that cannot be used, by reason, at most 20 of them and a count."""
    settings = TurnSettings(turns) if turns else None
    try:
        checked = checked_rows(path, format_name, columns, settings=settings)
    except DataError as error:
        return [str(error)]
    return checked.faults(path)


def checked_rows(
    path: Path,
    format_name: str,
    columns: dict[str, str],
    heldout_share: float | None = None,
    settings: TurnSettings | None = None,
) -> Checked:
    """Every row, part by part; DataError where the file as a whole cannot be read."""
    file = RowFile(path, FORMATS[format_name], columns)
    settings = settings or TurnSettings(FORMATS[format_name].turns)
    checked = Checked()
    turns = TurnCounts()
    flagged = Counter[str]()
    digests: list[bytes] = []
    for part in file.parts():
        rows = part()
        normalized = file.format.normalize(rows.select(list(file.format.columns)), settings)
        reasons = pc.coalesce(rows[READ_REASON], normalized["reason"])
        is_bad = pc.is_valid(reasons)
        bad = np.flatnonzero(is_bad)
        for place in bad[: SHOWN - len(checked.shown)]:
            checked.shown.append((checked.rows + int(place) + 1, reasons[int(place)].as_py()))
        checked.rows += rows.num_rows
        checked.reasons += count_values(reasons)
        usable = normalized.filter(pc.invert(is_bad))
        turns.add_normalized(normalized, usable)
        digests.append(row_digests(usable))
        flagged += count_values(usable["flag"])
        if heldout_share is not None:
            checked.heldout += int(np.count_nonzero(heldout_mask(usable, heldout_share)))
    file.check()
    checked.turns = turns.account()
    checked.repeated = int(np.count_nonzero(~first_of_each(joined_digests(digests))))
    checked.shown = _with_details(file, checked.shown)
    for flags, count in flagged.items():
        checked.flagged.update(dict.fromkeys(flags.split(FLAGS_BETWEEN), count))
    checked.warnings = list(file.warnings())
    checked.details = file.details()
    if unused := file.unused():
        checked.warnings.append(unused_warning(str(path), unused))
    if others := file.others():
        checked.warnings.append(f"{path}: columns that are not used: {listed(others)}.")
    return checked


def _with_details(file: RowFile, shown: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The rows that are named one by one, each with what it has."""
    details = row_details(file.path, file.columns, dict(shown))
    return [
        (number, f"{reason} ({details[number]})" if number in details else reason)
        for number, reason in shown
    ]


@dataclass
class CheckedVariants:
    """Lines about the rows that a run sets aside, and about what else is to be known."""

    set_aside: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_rows(variants: Sequence[Variant]) -> CheckedVariants:
    """The rows of the variants' local files: those that a run sets aside because they cannot be
    read or used (it finds duplicates, too), how many were read, what is left out of them.
    ConfigError for files that cannot be read, and for data sets of which nothing is left."""
    result, faults = CheckedVariants(), []
    shares: dict[str, tuple[Dataset, float | None]] = {
        d.model_dump_json(): (d, None) for v in variants for d in [v.heldout] if d
    }
    shares |= {d.model_dump_json(): (d, v.split.heldout) for v in variants for d in v.datasets}
    for dataset, share in shares.values():
        root = local_path(dataset.path or dataset.repo)
        if root is not None:
            faults += _check_dataset(dataset, root, share, result)
    if faults:
        raise ConfigError(faults)
    return result


def _check_dataset(
    dataset: Dataset, root: Path, share: float | None, result: CheckedVariants
) -> list[str]:
    """Add to `result` what its rows are; return what is wrong with the data set as a whole."""
    key = f"datasets.{dataset.name}"
    if is_saved(dataset):
        return _check_saved(dataset, share, result)
    chosen = row_files(root, dataset.files, key)
    result.notes += left_out_warnings(dataset.name, chosen.left_out)
    try:
        if root.is_dir() and dataset.files == DEFAULT_PATTERNS:
            refuse_joined_directory(root, chosen.files)
    except SourceError as error:
        return [f"{key}: {error}"]
    try:
        row_format = definite_format(dataset.format, chosen.files, dataset.columns)
    except DataError as error:
        return [str(error)]
    if dataset.format == AUTO:
        result.notes.append(format_note(dataset.name, row_format))
    turns = dataset.turns or FORMATS[row_format].turns
    settings = TurnSettings(turns, dataset.repeated_roles)
    rows = bad = heldout = 0
    lines: list[str] = []
    unreadable: list[str] = []
    for path in chosen.files:
        try:
            checked = checked_rows(path, row_format, dataset.columns, share, settings)
        except DataError as error:
            unreadable.append(str(error))
            continue
        rows, bad = rows + checked.rows, bad + checked.bad
        heldout += checked.heldout
        lines += checked.faults(path) if checked.rows else []
        result.notes += checked.notes(path)
    result.set_aside += lines
    if unreadable:
        return unreadable
    if rows == bad:
        several = (
            [f"{key}: none of {count_of(rows, 'row')} can be used."]
            if len(chosen.files) > 1
            else []
        )
        return [*several, *lines]
    return _side_faults(key, rows - bad - heldout, heldout, share)


def _side_faults(key: str, train: int, heldout: int, share: float | None) -> list[str]:
    """What is wrong where a side of the split has no row; without a share, there is one side."""
    fault = None if share is None else split_fault(train, heldout, share)
    return [f"{key}: {fault}"] if fault else []


def _check_saved(dataset: Dataset, share: float | None, result: CheckedVariants) -> list[str]:
    """Check what `save_to_disk` wrote, by the copy of its rows that a run reads."""
    saved = store().get_or_build(ReadSaved.of(dataset))
    details = saved.details()
    [file] = (saved.path / ROWS).iterdir()
    copied = CheckedVariants()
    one_file = dataset.model_copy(update={"path": str(file), "repo": None, "split": None})
    faults = _check_dataset(one_file, file, share, copied)

    def named(lines: list[str]) -> list[str]:
        return [line.replace(str(file), source_name(details, file.name)) for line in lines]

    result.notes += left_out_warnings(dataset.name, details.get("left_out", {}))
    result.notes += named(copied.notes)
    result.set_aside += named(copied.set_aside)
    return named(faults)


def unusable_rows(variants: Sequence[Variant]) -> list[str]:
    """The lines about rows that a run sets aside; see `check_rows`."""
    return check_rows(variants).set_aside


def format_of(path: Path, columns: Mapping[str, str] | None = None) -> str:
    """Return the format that the file's columns are of; ConfigError says what to write where there
    is none."""
    try:
        return detected_format(path, columns or {})
    except DataError as error:
        raise ConfigError([str(error)]) from None

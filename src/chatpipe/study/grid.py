"""The cells of a study file: every combination of what it varies, each a variant."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Study, Variant
from chatpipe.config.study_file import GRID_KEYS, MAX_CELLS, Member, StudyFile
from chatpipe.config.validation import parse_section
from chatpipe.config.yaml_files import is_yaml, read_mapping
from chatpipe.errors import ConfigError
from chatpipe.study.files import find_file, names
from chatpipe.study.overrides import Override, paths_relative_to
from chatpipe.study.runs import load_run
from chatpipe.study.variants import load_file, parse_variant
from chatpipe.utils.unique import unique_by

Overrides = tuple[Override, ...]


def find_cell(name: str) -> Variant | None:
    """Return the cell of that name of a study in the deployments' directory."""
    for study in names("studies"):
        file = read_study(find_file("studies", study))
        cells = file.variants(must_exist=False) if isinstance(file, Grid) else []
        if match := next((cell for cell in cells if cell.name == name), None):
            return match
    return None


def read_study(path: Path) -> Study | Grid:
    """Return what that file is: a list of names of variants, or a grid, which is more.

    Raises:
        ConfigError: A value is none that a study may have.
    """
    raw = {"name": path.stem, **read_mapping(path)}
    if not _is_grid(raw):
        return parse_section(Study, raw, str(path))
    return _grid(parse_section(StudyFile, raw, str(path)), path)


def _is_grid(raw: dict[str, Any]) -> bool:
    own = [m for m in _members(raw) if isinstance(m, dict) or is_yaml(str(m))]
    return bool(own or GRID_KEYS & raw.keys())


def _grid(file: StudyFile, path: Path) -> Grid:
    """Return the grid; ConfigError where it has more cells than a study may have."""
    lengths = [len(values) for values in file.vary.values()]
    lengths += [len(values) for values in list(file.vary_together.values())[:1]]
    lengths.append(max(len(file.data_share), 1))
    seeds = file.seeds if isinstance(file.seeds, int) else len(file.seeds or (0,))
    cells = len(file.members) * math.prod(lengths) * seeds
    if cells > MAX_CELLS:
        raise ConfigError(
            [
                f"{path}: the study has {cells:,} cells, and {MAX_CELLS:,} are the most; vary "
                "fewer settings, or in several studies."
            ]
        )
    return Grid(file, path)


@dataclass(frozen=True)
class Grid:
    """The cells of a study's file."""

    file: StudyFile
    path: Path

    def variants(
        self, overrides: Sequence[Override] = (), must_exist: bool = True
    ) -> list[Variant]:
        """Return the variant of every cell, the cells of one member together."""
        variants: list[Variant] = []
        faults = [*self._repeated_names(), *self._varied_overrides(overrides)]
        if faults:
            raise ConfigError(faults)
        if self.file.heldout is not None:
            overrides = [self._override("heldout", self.file.heldout), *overrides]
        for place, member in enumerate(self.file.members):
            key = "base" if self.file.base is not None else f"variants.{place}"
            for cell in self._cells_of(member):
                try:
                    variants += [
                        self._variant(member, (*cell, *seed, *overrides), must_exist, key)
                        for seed in self._seeds(member, cell, must_exist, key)
                    ]
                except ConfigError as error:
                    faults += [self._blame_file(fault, cell) for fault in error.faults]
        if faults:
            raise ConfigError(list(dict.fromkeys(faults)))
        return variants

    def _repeated_names(self) -> Iterator[str]:
        """Yield a sentence for each name that two of the file's own variants have."""
        keys: dict[str, str] = {}
        for place, member in enumerate(self.file.variants):
            name = str(member.get("name")) if isinstance(member, dict) else member
            first = keys.setdefault(name, f"variants.{place}")
            if first != f"variants.{place}":
                yield (
                    f"{self.path}: {first} and variants.{place} are both named {name}; give one of "
                    "them another name."
                )

    def _varied_overrides(self, overrides: Sequence[Override]) -> Iterator[str]:
        """Yield a sentence for each override of a setting that the study varies."""
        varied = {tuple(key.split(".")) for key in (*self.file.vary, *self.file.vary_together)}
        varied |= {("data_share",)} if self.file.data_share else set()
        varied |= {("training", "seed")} if self.file.seeds is not None else set()
        for override in overrides:
            if override.keys in varied:
                yield (
                    f"--set {override.text}: {self.path} varies {'.'.join(override.keys)}; change "
                    "the file, or leave out --set."
                )

    def members(self) -> list[Variant]:
        """Return the variants that the study starts from."""
        return [
            self._variant(member, (), True, "base" if self.file.base else f"variants.{place}")
            for place, member in enumerate(self.file.members)
        ]

    def _cells(self) -> Iterator[Overrides]:
        """Yield every combination of the settings that are varied."""
        vary: list[list[tuple[tuple[str, Any], ...]]] = [
            [((setting, value),) for value in values] for setting, values in self.file.vary.items()
        ]
        if self.file.data_share:
            vary.append([(("data_share", share),) for share in self.file.data_share])
        together = self.file.vary_together
        if together:
            rows = zip(*together.values(), strict=True)
            vary.append([tuple(zip(together, row, strict=True)) for row in rows])
        for combination in itertools.product(*vary):
            settings = itertools.chain.from_iterable(combination)
            yield tuple(self._override(setting, value) for setting, value in settings)

    def _cells_of(self, member: Member) -> list[Overrides]:
        """Return the combinations of settings that the member may have: of one that was trained
        elsewhere, without those of a training, each once."""
        cells = list(self._cells())
        if not self._is_imported(member):
            return cells
        own = [
            tuple(override for override in cell if override.keys[0] not in Variant.of_training)
            for cell in cells
        ]
        return unique_by(own, lambda cell: tuple(override.text for override in cell))

    def _is_imported(self, member: Member) -> bool:
        try:
            return self._variant(member, (), False, "").imported is not None
        except ConfigError:  # it is a variant with its cell's settings only
            return False

    def _seeds(
        self, member: Member, cell: Overrides, must_exist: bool, key: str
    ) -> list[Overrides]:
        """Return the setting of each seed; a number of seeds begins with the variant's own."""
        seeds = self.file.seeds
        if seeds is None or self._is_imported(member):
            return [()]
        if isinstance(seeds, int):
            first = self._variant(member, cell, must_exist, key).training.seed
            seeds = tuple(range(first, first + seeds))
        return [(self._override("training.seed", seed),) for seed in seeds]

    def _override(self, setting: str, value: Any) -> Override:
        keys = tuple(setting.split("."))
        value = paths_relative_to(self.path.parent, keys, value)
        return Override(f"{setting}={json.dumps(value, ensure_ascii=False)}", keys, value)

    def _variant(self, member: Member, overrides: Overrides, must_exist: bool, key: str) -> Variant:
        if isinstance(member, dict):
            if not isinstance(member.get("name"), str):
                raise ConfigError([f"{self.path}: {key}.name: this key is required."])
            return parse_variant(dict(member), str(self.path), overrides, must_exist)
        if is_yaml(member):
            return load_file(
                find_file("variants", str(self.path.parent / member)), overrides, must_exist
            )
        try:
            return load_run(member, overrides, must_exist)
        except ConfigError as error:
            raise ConfigError(
                [
                    f"{self.path}: {key}: {fault.removeprefix('variants: ')}"
                    if fault.startswith("variants: ")
                    else fault
                    for fault in error.faults
                ]
            ) from None

    def _blame_file(self, fault: str, cell: Overrides) -> str:
        """A cell's setting stands in the study's file, not on the command line."""
        if self.file.heldout is not None:
            heldout = self._override("heldout", self.file.heldout)
            fault = fault.replace(f"--set {heldout.text}:", f"{self.path}:")
        for override in cell:
            fault = fault.replace(f"--set {override.text}:", f"{self.path}: vary {override.text}:")
        return fault


def _members(raw: dict[str, Any]) -> list[Any]:
    listed = raw.get("variants")
    return [
        *(listed if isinstance(listed, list) else []),
        *([raw["base"]] if "base" in raw else []),
    ]

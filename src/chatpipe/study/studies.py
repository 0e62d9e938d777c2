"""YAML → Study: a list of variants, or a grid of settings and seeds that starts from some."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from chatpipe.config.run_names import SEPARATOR
from chatpipe.config.schema import Study, Variant
from chatpipe.config.study_file import GRID_KEYS, MAX_CELLS, Member, StudyFile
from chatpipe.config.validation import fault_sentences
from chatpipe.config.yaml_files import read_mapping
from chatpipe.errors import ConfigError
from chatpipe.study.checks import study_faults
from chatpipe.study.loading import find_file, is_yaml, load_file, load_variant, names, parse_variant
from chatpipe.study.overrides import Override, parse_override, paths_relative_to

Overrides = tuple[Override, ...]
SectionT = TypeVar("SectionT", Study, StudyFile)


def load_study(name_or_path: str) -> Study:
    """Return the study of that name or file; of a grid, with the names of its cells."""
    path = find_file("studies", name_or_path)
    raw = {"name": path.stem, **read_mapping(path)}
    if _is_grid(raw):
        file = _parse(raw, StudyFile, path)
        cells = _grid(file, path).variants(must_exist=False)
        return Study(name=file.name, variants=tuple(cell.name for cell in cells))
    return _parse(raw, Study, path)


def study_variants(
    study: Study, overrides: Sequence[str] = (), origin: str | None = None
) -> list[Variant]:
    """Return all variants of a study; ConfigError has the faults of all of them together.

    Args:
        overrides: `key.path=value` settings for every variant.
        origin: The study's name or file, if it was read from one: a variant that is not there is
            that file's fault, and a variant may be one that only this file names.
    """
    path = find_file("studies", origin) if origin else None
    raw = {"name": path.stem, **read_mapping(path)} if path else {}
    if path and _is_grid(raw):
        grid = _grid(_parse(raw, StudyFile, path), path)
        variants = grid.variants([parse_override(text) for text in overrides])
        faults: list[str] = []
    else:
        variants, faults = _listed_variants(study, overrides, path)
    if variants:
        faults += [f"{study.name}: {fault}" for fault in study_faults(variants)]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return variants


def is_study(name_or_path: str) -> bool:
    """Whether that name or file is a study's, and not a variant's. Both may have `data_share`, a
    list in a study and a number in a variant."""
    if is_yaml(name_or_path) and Path(name_or_path).is_file():
        raw = read_mapping(Path(name_or_path))
        only_studies = {"variants", *GRID_KEYS} - Variant.model_fields.keys()
        return bool(only_studies & raw.keys()) or isinstance(raw.get("data_share"), list)
    return name_or_path in names("studies") and name_or_path not in names("variants")


def find_cell(name: str) -> Variant | None:
    """Return the cell of that name of a study in the deployments' directory."""
    for study in names("studies"):
        path = find_file("studies", study)
        raw = {"name": study, **read_mapping(path)}
        if not _is_grid(raw) or any(SEPARATOR in str(m) for m in _members(raw)):
            continue
        cells = _grid(_parse(raw, StudyFile, path), path).variants(must_exist=False)
        if match := next((cell for cell in cells if cell.name == name), None):
            return match
    return None


def _parse(raw: dict[str, Any], model: type[SectionT], path: Path) -> SectionT:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(fault_sentences(error, str(path), model)) from None


def _is_grid(raw: dict[str, Any]) -> bool:
    """Whether the file is more than a list of names."""
    own = [m for m in _members(raw) if isinstance(m, dict) or is_yaml(str(m))]
    return bool(own or GRID_KEYS & raw.keys())


def _members(raw: dict[str, Any]) -> list[Any]:
    listed = raw.get("variants")
    return [
        *(listed if isinstance(listed, list) else []),
        *([raw["base"]] if "base" in raw else []),
    ]


def _listed_variants(
    study: Study, overrides: Sequence[str], path: Path | None
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
            variants.append(load_variant(name, overrides))
        except ConfigError as error:
            faults += error.faults
    return variants, faults


@dataclass(frozen=True)
class _Grid:
    """The cells of a study's file."""

    file: StudyFile
    path: Path

    def variants(
        self, overrides: Sequence[Override] = (), must_exist: bool = True
    ) -> list[Variant]:
        """Return the variant of every cell, the cells of one member together."""
        variants, faults = [], []
        for place, member in enumerate(self.file.members):
            key = "base" if self.file.base is not None else f"variants.{place}"
            for cell in self._cells():
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

    def _seeds(
        self, member: Member, cell: Overrides, must_exist: bool, key: str
    ) -> list[Overrides]:
        """Return the setting of each seed; a number of seeds begins with the variant's own."""
        seeds = self.file.seeds
        if seeds is None:
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
            return load_variant(member, overrides, must_exist)
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
        for override in cell:
            fault = fault.replace(f"--set {override.text}:", f"{self.path}: vary {override.text}:")
        return fault


def _grid(file: StudyFile, path: Path) -> _Grid:
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
    return _Grid(file, path)

"""One variant from YAML and `--set` overrides; every fault at once, each naming file and key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from chatpipe.config.merging import deep_merge
from chatpipe.config.run_names import (
    name_of_file,
    parse_settings,
    plain_name,
    rename_by_settings,
    rename_run,
)
from chatpipe.config.schema import AUTO, Variant
from chatpipe.config.validation import fault_sentences, format_value, setting_origin
from chatpipe.config.yaml_files import is_yaml, read_mapping
from chatpipe.data.catalog import DATASETS
from chatpipe.errors import ConfigError
from chatpipe.sources.local_paths import PACKAGED, local_path
from chatpipe.sources.wheel import WHEEL_MODELS
from chatpipe.study.export import saved_names, saved_variant
from chatpipe.study.files import names
from chatpipe.study.overrides import (
    Override,
    apply_override,
    expand,
    parse_override,
    tasks_relative_to,
)
from chatpipe.utils.user_paths import expanded


def parse_variant(
    raw: dict[str, Any],
    origin: str,
    overrides: Sequence[str | Override] = (),
    must_exist: bool = True,
) -> Variant:
    """A variant from plain values; `origin` is what faults call the file."""
    parsed = [parse_override(text) if isinstance(text, str) else text for text in overrides]
    variant = _parse(raw, origin, parsed, must_exist)
    if faults := _without_training(variant, parsed):
        raise ConfigError(faults)
    if not parsed or any(override.keys == ("name",) for override in parsed):
        return variant
    try:
        return rename_run(variant, _parse(raw, origin, must_exist=must_exist))
    except ConfigError:  # it is a variant with its overrides only
        settings = {".".join(override.keys): override.value for override in parsed}
        return rename_by_settings(variant, settings)


def load_file(
    path: Path, overrides: Sequence[str | Override] = (), must_exist: bool = True
) -> Variant:
    """Return the variant of that file."""
    raw = read_mapping(path)
    raw.setdefault("name", path.stem)
    return parse_variant(raw, str(path), overrides, must_exist)


def is_taken(variant: Variant) -> bool:
    """Whether its name, and with it its report, is that of something with other data or base; also
    where a run of the same plain name, with other settings, has them."""
    plain = plain_name(variant.name)
    if plain in {*names("variants"), *names("studies")}:
        return True
    saved = saved_variant(variant.name)
    if saved.parent.exists() and not saved.is_file():
        return True
    return any(
        _has_other_data(variant, name) for name in saved_names() if plain_name(name) == plain
    )


def _has_other_data(variant: Variant, run: str) -> bool:
    """Whether that run has another base or other data sets, which neither name says."""
    recorded, own = read_mapping(saved_variant(run)), variant.model_dump(mode="json")
    settings = [] if run == variant.name else [*parse_settings(run), *parse_settings(variant.name)]
    return any(
        recorded.get(key) != own[key]
        for key in ("base_model", "datasets")
        if not any(setting.startswith(key) for setting in settings)
    )


def _parse(
    raw: dict[str, Any], origin: str, overrides: Sequence[Override] = (), must_exist: bool = True
) -> Variant:
    texts = [override.text for override in overrides]
    chosen = [o for o in overrides if o.keys == ("preset",)]
    preset, unknown = _preset(
        chosen[-1].value if chosen else raw.get("preset"),
        setting_origin("preset", origin, texts),
    )
    raw = deep_merge(expand(preset), expand(_without(raw, "preset")))
    for override in overrides:
        if override not in chosen:
            raw = apply_override(raw, override)
    blamed = setting_origin("datasets", origin, texts)
    raw, faults = _resolve_datasets(_resolve_tasks(_resolve_base(raw), origin), origin, blamed)
    if raw.get("heldout") is not None:
        raw = {**raw, "heldout": _resolve_heldout(raw["heldout"], origin)}
    raw, imported_faults = _resolve_imported(raw, origin)
    faults += imported_faults if must_exist else []
    faults += [*unknown, *(_missing_paths(raw, blamed) if must_exist else [])]
    try:
        variant = Variant.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([*faults, *fault_sentences(error, origin, Variant, texts)]) from None
    if faults:
        raise ConfigError(faults)
    return variant


def _without_training(variant: Variant, overrides: Sequence[Override]) -> list[str]:
    """A sentence for each override of a training that an imported adapter does not have."""
    if variant.imported is None:
        return []
    return [
        f"--set {override.text}: {variant.name} was trained elsewhere, so that this changes "
        "nothing; leave it out."
        for override in overrides
        if override.keys[0] in Variant.of_training
    ]


def _preset(name: Any, origin: str) -> tuple[dict[str, Any], list[str]]:
    """(the settings of that name, what is wrong with the name)."""
    if name is None:
        return {}, []
    presets: dict[str, dict[str, Any]] = yaml.safe_load(
        files("chatpipe.study").joinpath("presets.yaml").read_text("utf-8")
    )
    if not isinstance(name, str) or name not in presets:
        return {}, [
            f"{origin}: preset: {format_value(name) or 'that'} is unknown; "
            f"known: {', '.join(presets)}."
        ]
    return presets[name], []


def _without(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name != key}


def _resolve_base(raw: dict[str, Any]) -> dict[str, Any]:
    """A directory of this machine becomes absolute: a worker runs in another one."""
    base = raw.get("base_model")
    if not isinstance(base, dict) or base.get("repo") in WHEEL_MODELS:
        return raw
    return {**raw, "base_model": _absolute_repo(base)}


def _resolve_tasks(raw: dict[str, Any], origin: str) -> dict[str, Any]:
    """Relative paths of tasks' files count from the variant's folder, and become absolute."""
    evaluation = raw.get("evaluation")
    tasks = evaluation.get("tasks") if isinstance(evaluation, dict) else None
    if not isinstance(tasks, list):
        return raw
    resolved = tasks_relative_to(_folder(origin), tasks)
    return {**raw, "evaluation": {**evaluation, "tasks": resolved}}  # type: ignore[dict-item]


def _absolute_repo(entry: dict[str, Any]) -> dict[str, Any]:
    repo = entry.get("repo")
    local = local_path(repo) if isinstance(repo, str) and repo else None
    return entry if local is None else {**entry, "repo": str(local)}


def _resolve_datasets(
    raw: dict[str, Any], origin: str, blamed: str
) -> tuple[dict[str, Any], list[str]]:
    """Catalogue names become catalogue entries; relative paths count from the file's folder, and
    become absolute: a worker runs in another one."""
    faults, resolved = [], []
    entries = raw.get("datasets")
    if not isinstance(entries, list):
        return raw, []
    for place, entry in enumerate(entries):
        if isinstance(entry, str):
            if entry not in DATASETS:
                close = difflib.get_close_matches(entry, DATASETS, 1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(DATASETS)}."
                faults.append(f"{blamed}: datasets: no data set is named {entry!r}; {hint}")
                # Something in its place, so that the rest can be checked under its own number.
                substitute = next(iter(DATASETS.values()))
                entry = {**substitute.model_dump(), "name": f"unknown-{place}"}
            else:
                entry = DATASETS[entry].model_dump()
        else:
            entry = _resolve_entry(entry, origin)
        resolved.append(entry)
    return {**raw, "datasets": resolved}, faults


def _resolve_heldout(entry: Any, origin: str) -> Any:
    """A data set of the catalogue, a file or directory of rows, or the keys of a data set."""
    if isinstance(entry, str) and entry in DATASETS:
        return DATASETS[entry].model_dump()
    if isinstance(entry, str) and entry:
        name = name_of_file(Path(entry))
        return {"name": name, "path": _absolute(entry, origin), "format": AUTO}
    return _resolve_entry(entry, origin)


def _resolve_imported(raw: dict[str, Any], origin: str) -> tuple[dict[str, Any], list[str]]:
    """An adapter's directory with an absolute path, and what is wrong with one that is read now."""
    entry = raw.get("imported")
    if not (isinstance(entry, dict) and isinstance(entry.get("path"), str) and entry["path"]):
        return raw, []
    path = _absolute(entry["path"], origin)
    faults = []
    if entry.get("content") is None and not Path(path).is_dir():
        faults.append(f"{origin}: imported.path: {path} is no directory.")
    return {**raw, "imported": {**entry, "path": path}}, faults


def _resolve_entry(entry: Any, origin: str) -> Any:
    """The keys of a data set, with an absolute path."""
    if not isinstance(entry, dict):
        return entry
    if isinstance(entry.get("path"), str) and entry["path"]:
        return {**entry, "path": _absolute(entry["path"], origin)}
    return _absolute_repo(entry)


def _absolute(path: str, origin: str) -> str:
    if path.startswith(PACKAGED):
        return path
    return str(_folder(origin) / expanded(path))


def _folder(origin: str) -> Path:
    """The directory of the variant's file, or that of this process."""
    return Path(origin).absolute().parent if is_yaml(origin) else Path.cwd()


def _missing_paths(raw: dict[str, Any], blamed: str) -> list[str]:
    entries = raw.get("datasets")
    named = [
        (f"datasets.{entry.get('name')}.path" if isinstance(entry, dict) else "", entry)
        for entry in (entries if isinstance(entries, list) else [])
    ]
    return [
        f"{blamed}: {key}: {entry['path']} does not exist."
        for key, entry in [*named, ("heldout", raw.get("heldout"))]
        if isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and entry["path"]
        and local_path(entry["path"]) is None
    ]

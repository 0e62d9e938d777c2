"""YAML and --set overrides → Variant and Study; every fault at once, each naming file and key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from chatpipe.config.merging import deep_merge
from chatpipe.config.run_names import (
    SEPARATOR,
    cell_name,
    parse_settings,
    plain_name,
    rename_by_settings,
    rename_run,
)
from chatpipe.config.schema import Variant
from chatpipe.config.validation import fault_sentences, format_value, setting_origin, suggest_name
from chatpipe.config.yaml_files import read_mapping
from chatpipe.data.catalog import DATASETS
from chatpipe.errors import ConfigError
from chatpipe.sources.fetch import PACKAGED, WHEEL_MODELS, local_path
from chatpipe.study.export import saved_variant
from chatpipe.study.overrides import Override, apply_override, expand, parse_override
from chatpipe.utils.user_paths import expanded


def deployments_dir() -> Path:
    """Where variants/ and studies/ are: $CHATPIPE_DEPLOYMENTS, or ./deployments, or
    those of this checkout or installation; absolute."""
    configured = os.environ.get("CHATPIPE_DEPLOYMENTS")
    if configured:
        path = expanded(configured).absolute()
        if not path.is_dir():
            raise ConfigError([f"CHATPIPE_DEPLOYMENTS={configured}: {path} is no directory."])
        return path
    package = Path(__file__).resolve().parents[1]
    candidates = [
        Path("deployments").absolute(),
        package.parents[1] / "deployments",
        package / "deployments",
    ]
    return next((path for path in candidates if path.is_dir()), candidates[0])


def names(kind: str) -> list[str]:
    """The names of all "variants" or "studies"."""
    return sorted(path.stem for path in (deployments_dir() / kind).glob("*.yaml"))


def load_variant(
    name_or_path: str, overrides: Sequence[str | Override] = (), must_exist: bool = True
) -> Variant:
    """The variant of that name or file, with `key.path=value` overrides laid over it.

    With overrides that change something, its name says so (`run_names`); that name
    (`NAME+key=value`) is understood as well. must_exist: whether its rows have to be there.
    """
    name_or_path = cell_name(name_or_path)
    if SEPARATOR in name_or_path and not is_yaml(name_or_path):
        return _load_run(name_or_path, overrides, must_exist)
    return load_file(find_file("variants", name_or_path), overrides, must_exist)


def parse_variant(
    raw: dict[str, Any],
    origin: str,
    overrides: Sequence[str | Override] = (),
    must_exist: bool = True,
) -> Variant:
    """A variant from plain values; `origin` is what faults call the file."""
    parsed = [parse_override(text) if isinstance(text, str) else text for text in overrides]
    variant = _parse(raw, origin, parsed, must_exist)
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


def _load_run(name: str, overrides: Sequence[str | Override], must_exist: bool) -> Variant:
    """The variant of a run with other settings: by what its name says, or as the run saved it."""
    saved = saved_variant(name)
    if not plain_name(name) or "" in parse_settings(name):
        raise ConfigError([f"{name}: write it as NAME+key.path=value, like +training.epochs=1."])
    if not saved.is_file() and not all("=" in setting for setting in parse_settings(name)):
        if cell := _cell(name, overrides, must_exist):
            return cell
        raise ConfigError(
            [
                f"{name}: this home has no run of that name, and the name does not say all of its "
                f"settings; write {plain_name(name)} with the run's --set KEY=VALUE."
            ]
        )
    try:
        variant = load_variant(plain_name(name), parse_settings(name), must_exist)
    except ConfigError:
        if not saved.is_file():
            if cell := _cell(name, overrides, must_exist):
                return cell
            raise
        return load_file(saved, overrides, must_exist)
    if variant.name != name and saved.is_file():
        return load_file(saved, overrides, must_exist)
    return load_variant(plain_name(name), [*parse_settings(name), *overrides], must_exist)


def _cell(name: str, overrides: Sequence[str | Override], must_exist: bool) -> Variant | None:
    """The cell of that name of a study of the deployments' directory."""
    from chatpipe.study.studies import find_cell

    cell = find_cell(name)
    if cell is None:
        return None
    return parse_variant(cell.model_dump(mode="json"), name, overrides, must_exist)


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
    raw, faults = _resolve_datasets(_resolve_base(raw), origin, blamed)
    faults += [*unknown, *(_missing_paths(raw, blamed) if must_exist else [])]
    try:
        variant = Variant.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([*faults, *fault_sentences(error, origin, Variant, texts)]) from None
    if faults:
        raise ConfigError(faults)
    return variant


def is_yaml(name_or_path: str) -> bool:
    """Whether it is a YAML file by its name."""
    return Path(name_or_path).suffix in {".yaml", ".yml"}


def is_taken(variant: Variant) -> bool:
    """Whether its name, and with it its report, is that of something with other data or base."""
    if plain_name(variant.name) in {*names("variants"), *names("studies")}:
        return True
    saved = saved_variant(variant.name)
    if not saved.is_file():
        return saved.parent.exists()
    same = variant.model_dump(mode="json")
    recorded = read_mapping(saved)
    return any(recorded.get(key) != same[key] for key in ("base_model", "datasets"))


def find_file(kind: str, name_or_path: str) -> Path:
    """Return the YAML file of one of the "variants" or "studies"; ConfigError lists them."""
    if not name_or_path.strip():
        raise ConfigError([f"{kind}: the name is empty; known are {', '.join(names(kind))}."])
    path = deployments_dir() / kind / f"{name_or_path}.yaml"
    if path.is_file():
        return path
    if kind == "variants" and saved_variant(name_or_path).is_file():
        return saved_variant(name_or_path)
    if is_yaml(name_or_path) or "/" in name_or_path or Path(name_or_path).exists():
        return _existing_file(Path(name_or_path))
    if kind == "variants" and name_or_path in names("studies"):
        from chatpipe.study.studies import load_study

        members = ", ".join(load_study(name_or_path).variants)
        raise ConfigError(
            [f"{name_or_path}: is a study; name one of its variants ({members}), or use compare."]
        )
    if kind == "studies" and name_or_path in names("variants"):
        raise ConfigError([f"{name_or_path}: is a variant; name a study, or use run."])
    hint = suggest_name(name_or_path, names(kind))
    end = "" if hint.endswith("?") else "."
    raise ConfigError([f"{kind}: there is no {name_or_path!r} in {path.parent}; {hint}{end}"])


def _existing_file(path: Path) -> Path:
    """That YAML file; ConfigError says what else there is."""
    if path.is_dir():
        raise ConfigError([f"{path}: is a directory; name a YAML file in it."])
    if path.is_symlink() and not path.exists():
        target = path.readlink()
        raise ConfigError([f"{path}: is a link to {target}, which is not there."])
    if not path.exists():
        raise ConfigError([f"{path}: there is no such file."])
    if not path.is_file():
        raise ConfigError([f"{path}: is a pipe or device; name a file."])
    if not is_yaml(str(path)):
        raise ConfigError([f"{path}: is no YAML file; its name should end in .yaml."])
    return path


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
        elif isinstance(entry, dict) and isinstance(entry.get("path"), str) and entry["path"]:
            entry = {**entry, "path": _absolute(entry["path"], origin)}
        elif isinstance(entry, dict):
            entry = _absolute_repo(entry)
        resolved.append(entry)
    return {**raw, "datasets": resolved}, faults


def _absolute(path: str, origin: str) -> str:
    if path.startswith(PACKAGED):
        return path
    of_a_file = Path(origin).suffix in {".yaml", ".yml"}
    folder = Path(origin).absolute().parent if of_a_file else Path.cwd()
    return str(folder / expanded(path))


def _missing_paths(raw: dict[str, Any], blamed: str) -> list[str]:
    entries = raw.get("datasets")
    return [
        f"{blamed}: datasets.{entry.get('name')}.path: {entry['path']} does not exist."
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and entry["path"]
        and local_path(entry["path"]) is None
    ]

"""Where the YAML files of variants and studies are, and which one a name means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from chatpipe.config.run_names import plain_name
from chatpipe.config.schema import Variant
from chatpipe.config.study_file import GRID_KEYS
from chatpipe.config.validation import suggest_name
from chatpipe.config.yaml_files import is_yaml, read_mapping
from chatpipe.errors import ConfigError
from chatpipe.study.export import saved_names, saved_variant
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
        file = _existing_file(Path(name_or_path))
        if kind == "variants" and is_study_file(file):
            raise _is_a_study(name_or_path, file)
        return file
    if kind == "variants" and name_or_path in names("studies"):
        raise _is_a_study(name_or_path, deployments_dir() / "studies" / f"{name_or_path}.yaml")
    if kind == "studies" and name_or_path in names("variants"):
        raise ConfigError([f"{name_or_path}: is a variant; name a study, or use run."])
    runs = saved_names() if kind == "variants" else []
    hint = suggest_file_or_run(name_or_path, names(kind), runs)
    raise ConfigError([f"{kind}: there is no {name_or_path!r} in {path.parent}; {hint}"])


def suggest_file_or_run(name: str, known: Sequence[str], runs: Sequence[str]) -> str:
    """Return 'did you mean …?' of a name of `known` or of a run, which may be the same name with
    settings behind it; else the list of `known`, without the runs, which may be hundreds."""
    extended = [run for run in runs if plain_name(run) == name]
    if extended:
        return f"did you mean {extended[0]}?"
    with_runs = suggest_name(name, [*known, *runs])
    hint = with_runs if with_runs.endswith("?") else suggest_name(name, known)
    return hint if hint.endswith("?") else f"{hint}."


def is_study_file(path: Path) -> bool:
    """Whether that YAML file is a study's, and not a variant's. Both may have `data_share`, a list
    in a study and a number in a variant."""
    raw = read_mapping(path)
    only_studies = {"variants", *GRID_KEYS} - Variant.model_fields.keys()
    return bool(only_studies & raw.keys()) or isinstance(raw.get("data_share"), list)


def _is_a_study(name_or_path: str, file: Path) -> ConfigError:
    """The error of a study where a variant is needed, with the variants that its file lists."""
    listed = read_mapping(file).get("variants")
    variants = [
        str(member.get("name")) if isinstance(member, dict) else str(member)
        for member in (listed if isinstance(listed, list) else [])
    ]
    shown = f" ({', '.join(variants)})" if variants else ""
    return ConfigError(
        [f"{name_or_path}: is a study; name one of its variants{shown}, or use compare."]
    )


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

"""What the report calls the bases of a study: one name for each way in which a base is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chatpipe.config.schema import BaseModelRef, Variant
from chatpipe.harness.fetch_task import task_name
from chatpipe.sources.local_paths import local_path
from chatpipe.study.template_check import in_own_template
from chatpipe.utils.unique import unique_by

OWN_TEMPLATE = "own chat template"
MOST_SETTINGS = 3  # in a name; more are replaced by the name of a variant that has them


def base_names(variants: Sequence[Variant]) -> dict[str, str]:
    """Name of a variant → name of its base as it is measured for that variant.

    Variants share a name where, and only where, their bases are scored and asked alike. No two
    names are the same, and none is the name of a variant.
    """
    ways = unique_by(variants, measured_alike)
    references = _reference_names([variant.base_model for variant in ways])
    used_names = {variant.name for variant in variants}
    names: dict[str, str] = {}
    for way in ways:
        same_base = [v for v in ways if _reference(v.base_model) == _reference(way.base_model)]
        name = references[_reference(way.base_model)] + _settings_suffix(way, same_base)
        name = _unique(name, used_names)
        used_names.add(name)
        names[measured_alike(way)] = name
    return {variant.name: names[measured_alike(variant)] for variant in variants}


def own_template_names(variants: Sequence[Variant]) -> dict[str, str]:
    """Name of a variant → name of its base as it is measured in the base's own chat template.

    A base that is measured in that way for another variant has one name and one row.
    """
    own_ways = {variant.name: in_own_template(variant) for variant in variants}
    names = base_names(variants)
    measured = {measured_alike(variant): names[variant.name] for variant in variants}
    others = (way for way in own_ways.values() if measured_alike(way) not in measured)
    new_ways = unique_by(others, measured_alike)
    new_names = base_names(new_ways)
    used_names = {*own_ways, *names.values()}
    for way in new_ways:
        name = _unique(_with_note(new_names[way.name], OWN_TEMPLATE), used_names)
        used_names.add(name)
        measured[measured_alike(way)] = name
    return {name: measured[measured_alike(way)] for name, way in own_ways.items()}


def measured_alike(variant: Variant) -> str:
    """The same text for variants whose base is scored and asked by the same requests."""
    evaluation = variant.evaluation
    settings = (variant.prompt_template, variant.quantization, variant.generation, *variant.panel)
    parts = [part.model_dump_json() for part in settings]
    others = evaluation.model_dump(exclude={"bootstrap_samples", "seed"})
    return repr((_reference(variant.base_model), others, parts))


def _reference(base: BaseModelRef) -> tuple[str, str | None]:
    """(repository or absolute directory, revision)."""
    local = local_path(base.repo)
    return (str(local) if local else base.repo.rstrip("/"), base.revision)


def _reference_names(bases: Sequence[BaseModelRef]) -> dict[tuple[str, str | None], str]:
    """The last part of a base's name; as many parts before it, and its revision, as it takes to
    tell the bases apart."""
    references = dict.fromkeys(_reference(base) for base in bases)
    repos = dict.fromkeys(repo for repo, _ in references)
    tails = {repo: _shortest_tail(repo, list(repos)) for repo in repos}
    revisions = Counter(repo for repo, _ in references)
    return {
        (repo, revision): tails[repo] + (f"@{revision}" if revision and revisions[repo] > 1 else "")
        for repo, revision in references
    }


def _shortest_tail(repo: str, repos: Sequence[str]) -> str:
    parts = repo.split("/")
    for count in range(1, len(parts) + 1):
        tail = parts[-count:]
        if sum(other.split("/")[-count:] == tail for other in repos) == 1:
            return "/".join(tail)
    return repo


def _settings_suffix(way: Variant, ways: Sequence[Variant]) -> str:
    """ " (template short)": the settings that tell this way of measuring a base from others."""
    if len(ways) == 1:
        return ""
    rows = [_settings(other, ways) for other in ways]
    keys = [key for key in rows[0] if len({row[key] for row in rows}) > 1]
    if len(keys) > MOST_SETTINGS:
        return f" (as for {way.name})"
    settings = _settings(way, ways)
    return f" ({', '.join(f'{key} {settings[key]}' for key in keys)})"


def _settings(way: Variant, ways: Sequence[Variant]) -> dict[str, str]:
    """The settings by which a base is measured, as a reader knows them."""
    template = way.prompt_template
    namesakes = {
        v.prompt_template.model_dump_json() for v in ways if v.prompt_template.name == template.name
    }
    panel = f"of {way.name}" if len({v.panel for v in ways}) > 1 else ""
    settings = {"template": template.name + (f" of {way.name}" if len(namesakes) > 1 else "")}
    for section in ("quantization", "generation"):
        for key, value in getattr(way, section):
            settings[f"{section}.{key}"] = str(value)
    settings["evaluation.max_length"] = str(way.evaluation.max_length)
    settings["evaluation.batch_tokens"] = str(way.evaluation.batch_tokens)
    settings["evaluation.replies"] = str(way.evaluation.replies)
    settings["evaluation.tasks"] = ", ".join(map(task_name, way.evaluation.tasks)) or "none"
    settings["evaluation.panel_rows"] = str(way.evaluation.panel_rows)
    return settings | {"panel": panel}


def _with_note(name: str, note: str) -> str:
    """ "base (note)", or "base (settings, note)" where the name ends with settings already."""
    return f"{name[:-1]}, {note})" if name.endswith(")") else f"{name} ({note})"


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    candidates = [f"{name} (base)", *(f"{name} (base {n})" for n in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)

"""A study's fine-tuned models, grouped by what they share besides the seed of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from chatpipe import report as contract
from chatpipe.config.run_names import SEPARATOR
from chatpipe.report.measured import Measured

SEED = "training.seed"
TEMPLATE_NAME = "prompt_template.name"
# What does not change a score.
WITHOUT_EFFECT = {"name", "panel", "generation", "tracking", "train_together", "paper_reported"}

Groups = dict[str, list[Measured]]


def configurations(models: Sequence[Measured], without_effect: Set[str] = WITHOUT_EFFECT) -> Groups:
    """Return the fine-tuned models in groups that differ by seed alone, and by what has no effect,
    under the group's name."""
    groups: dict[str, list[Measured]] = {}
    for model in models:
        if model.adapter:
            groups.setdefault(_shared_settings(model, without_effect), []).append(model)
    return {_group_name(group, SEED): group for group in groups.values()}


def groups_by_share(groups: Mapping[str, Sequence[Measured]]) -> dict[str, list[str]]:
    """Return the names of configurations that differ by `data_share` alone, by what they share."""
    curves: dict[str, list[str]] = {}
    for name, models in groups.items():
        curves.setdefault(_shared_settings(models[0], WITHOUT_EFFECT, data_share=1.0), []).append(
            name
        )
    return {
        _group_name([groups[name][0] for name in names], SEED, "data_share"): names
        for names in curves.values()
    }


def describe(
    groups: Mapping[str, Sequence[Measured]], settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[contract.Configuration]:
    """Yield the report's entry of every configuration, from the settings of every model."""
    values = {name: settings[models[0].name] for name, models in groups.items()}
    unset = {
        name: contract.NOT_KNOWN if models[0].variant.imported else None
        for name, models in groups.items()
    }
    keys = dict.fromkeys(key for of in values.values() for key in of)
    filled = {name: {key: of.get(key, unset[name]) for key in keys} for name, of in values.items()}
    varied = [
        key
        for key in keys
        if key.partition(".")[0] not in WITHOUT_EFFECT
        and key != SEED
        and len({repr(of[key]) for of in filled.values() if of[key] != contract.NOT_KNOWN}) > 1
    ]
    columns = without_named_texts(varied, list(values.values()))
    for name, models in groups.items():
        yield contract.Configuration(
            name=name,
            models=[model.name for model in models],
            seeds=[None if m.variant.imported else m.variant.training.seed for m in models],
            settings={key: filled[name][key] for key in columns},
            cost=_cost(models),
        )


def without_named_texts(keys: list[str], values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys without the texts of templates where the templates' names tell them apart."""
    if TEMPLATE_NAME not in keys:
        return keys
    names = {repr(of.get(TEMPLATE_NAME)) for of in values}

    def follows_from_name(key: str) -> bool:
        pairs = {(repr(of.get(TEMPLATE_NAME)), repr(of.get(key))) for of in values}
        return key.startswith("prompt_template.") and len(pairs) == len(names)

    return [key for key in keys if key == TEMPLATE_NAME or not follows_from_name(key)]


def recorded(models: Sequence[Measured], figure: str) -> list[Any]:
    """Return what the trainings recorded under that name, without those that did not."""
    values = [model.adapter.details().get(figure) for model in models if model.adapter]
    return [value for value in values if value is not None]


def _cost(models: Sequence[Measured]) -> contract.Cost:
    return contract.Cost(
        trainings=len({m.variant.training.seed for m in models if not m.variant.imported}),
        wall_s=mean(recorded(models, "wall_s")),
        trained_tokens=mean(recorded(models, "trained_tokens")),
        peak_memory_bytes=max(recorded(models, "peak_memory_bytes"), default=None),
    )


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, None of nothing."""
    return sum(values) / len(values) if values else None


def _shared_settings(model: Measured, without_effect: Set[str], **changes: Any) -> str:
    return model.variant.model_copy(update=changes).settings_but_seed(*without_effect)


def _group_name(group: Sequence[Measured], *without: str) -> str:
    """The shortest of its names, without the settings in which its models differ."""
    name = min((model.name for model in group), key=len)
    if len(group) == 1:
        return name
    parts = name.split(SEPARATOR)
    return SEPARATOR.join(part for part in parts if part.partition("=")[0] not in without)

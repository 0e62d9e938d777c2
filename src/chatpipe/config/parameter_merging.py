"""Parameters of a flow given in part, merged over those that are known already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatpipe.config.merging import merged
from chatpipe.config.run_names import base_of
from chatpipe.config.validation import sentences
from chatpipe.errors import ConfigError

SectionT = TypeVar("SectionT", bound=BaseModel)
SHOWN_LETTERS = 100


def merge_sections(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` merged over `below` key by key; lists are replaced as a whole, but a variant in a
    list of variants is merged over the one of its name. A revision belongs to its repository."""
    parameters = merged(dict(below), dict(above))
    variants = above.get("variants")
    if isinstance(variants, list):
        parameters["variants"] = [_merge_variant(below, variant) for variant in variants]
    base_model, deployed_base = above.get("base_model"), below.get("base_model")
    if isinstance(base_model, Mapping) and isinstance(deployed_base, Mapping):
        repo = base_model.get("repo", deployed_base.get("repo"))
        if repo != deployed_base.get("repo"):
            parameters["base_model"] = dict(base_model)
    return parameters


def parse_section(model: type[SectionT], values: Mapping[str, Any], origin: str) -> SectionT:
    """The model of these values; ConfigError has a sentence for each of its faults."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(sentences(error, origin, model)) from None


def differences(below: Any, above: Any, key: str = "") -> Iterator[str]:
    """`key.path=value` for each value of `above` that `below` does not have."""
    if below == above:
        return
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        for name, value in above.items():
            yield from differences(below.get(name), value, f"{key}.{name}" if key else name)
    elif key == "variants":
        yield from _variant_differences(below or [], above)
    else:
        text = json.dumps(above, ensure_ascii=False)
        shown = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
        yield f"{key}={shown}"


def _variant_differences(below: list[Any], above: list[Any]) -> Iterator[str]:
    deployed = _by_name(below)
    names = [variant["name"] for variant in above]
    if names != list(deployed):
        yield f"variants={', '.join(names)}"
    for name, variant in zip(names, above, strict=True):
        plain = deployed.get(base_of(name, deployed) or name, {})
        yield from differences(plain, variant, f"variants.{name}")


def _merge_variant(below: Mapping[str, Any], variant: Any) -> Any:
    if not isinstance(variant, Mapping):
        return variant
    deployed = _by_name(below.get("variants") or [])
    name = base_of(str(variant.get("name")), deployed)
    return merge_sections(deployed[name], variant) if name else dict(variant)


def _by_name(variants: list[Any]) -> dict[str, Any]:
    return {item["name"]: item for item in variants if isinstance(item, Mapping) and "name" in item}

"""Some parameters of a flow merged over its deployment's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from chatpipe.config.merging import deep_merge
from chatpipe.config.run_names import cell_name, find_plain_name

SHOWN_LETTERS = 100


def merge_sections(deployed: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters `given` to a run merged over the `deployed` ones, key by key.

    Lists are replaced, but a variant in the list `variants` is merged over the deployed variant of
    its name. Another base repository does not keep the deployed revision.
    """
    parameters = deep_merge(dict(deployed), dict(given))
    variants = given.get("variants")
    if isinstance(variants, list):
        parameters["variants"] = [_merge_variant(deployed, variant) for variant in variants]
    base_model, deployed_base = given.get("base_model"), deployed.get("base_model")
    if isinstance(base_model, Mapping) and isinstance(deployed_base, Mapping):
        repo = base_model.get("repo", deployed_base.get("repo"))
        if repo != deployed_base.get("repo"):
            parameters["base_model"] = dict(base_model)
    return parameters


def differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Yield `key.path=value` for each value of `new` that differs from `old`."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name, value in new.items():
            yield from differences(old.get(name), value, f"{key}.{name}" if key else name)
    elif key == "variants":
        yield from _variant_differences(old or [], new)
    else:
        text = json.dumps(new, ensure_ascii=False)
        shown = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…"
        yield f"{key}={shown}"


def _variant_differences(old: list[Any], new: list[Any]) -> Iterator[str]:
    deployed = _by_name(old)
    names = [variant["name"] for variant in new]
    if names != list(deployed):
        yield f"variants={', '.join(names)}"
    for name, variant in zip(names, new, strict=True):
        plain = deployed.get(find_plain_name(cell_name(name), deployed) or name, {})
        yield from differences(plain, variant, f"variants.{name}")


def _merge_variant(deployed_parameters: Mapping[str, Any], variant: Any) -> Any:
    if not isinstance(variant, Mapping):
        return variant
    deployed = _by_name(deployed_parameters.get("variants") or [])
    name = find_plain_name(cell_name(str(variant.get("name"))), deployed)
    return merge_sections(deployed[name], variant) if name else dict(variant)


def _by_name(variants: list[Any]) -> dict[str, Any]:
    return {item["name"]: item for item in variants if isinstance(item, Mapping) and "name" in item}

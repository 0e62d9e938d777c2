"""A variant's settings by their dotted names."""

from __future__ import annotations

from typing import Any

from chatpipe import report as contract
from chatpipe.config.schema import Variant

# Settings that a variant which was trained elsewhere does not have, and those without effect.
_OF_TRAINING = (
    *("training.", "lora.dropout", "data_share", "dedup"),
    *("imported.path", "imported.content", "imported.same_base"),
)


def settings(variant: Variant) -> dict[str, contract.JsonScalar]:
    """Return every setting of a variant by its dotted name, without names and paths."""
    plain = variant.model_dump(
        mode="json", exclude={"name", "panel", "datasets", *Variant.hash_exclude}
    )
    flat = _flatten(plain)
    if variant.imported:  # settings of a training that nobody here has made
        flat = {key: value for key, value in flat.items() if not key.startswith(_OF_TRAINING)}
    else:
        flat.pop("imported")
    flat["datasets"] = ", ".join(dataset.name for dataset in variant.datasets)
    flat["panel"] = ", ".join(prompt.id for prompt in variant.panel)
    for prompt in variant.panel:
        flat[f"panel.{prompt.id}"] = "\n".join(prompt.texts())
    return flat


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, contract.JsonScalar]:
    flat: dict[str, contract.JsonScalar] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat

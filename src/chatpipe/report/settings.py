"""A variant's settings by their dotted names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from chatpipe import report as contract
from chatpipe.config.schema import Variant
from chatpipe.report.measured import Measured
from chatpipe.store.artifact import Artifact

# Settings that a variant which was trained elsewhere does not have, and those without effect.
_OF_TRAINING = (
    *("training.", "lora.dropout", "data_share", "dedup"),
    *("imported.path", "imported.content", "imported.same_base"),
)
_TARGETS = "lora.target_modules"


def settings_of(models: Sequence[Measured]) -> dict[str, dict[str, contract.JsonScalar]]:
    """Return the settings of every fine-tuned model by its name.

    Where lora.target_modules are written in several ways, they are the layers that the adapters
    have, so that `all-linear` does not differ from the same layers by name.
    """
    values = {model.name: settings(model.variant) for model in models if model.adapter}
    if len({of[_TARGETS] for of in values.values()}) > 1:
        for model in models:
            if model.adapter:
                layers = _adapted_layers(model.adapter) or str(values[model.name][_TARGETS])
                values[model.name][_TARGETS] = ", ".join(sorted(layers.split(", ")))
    return values


def _adapted_layers(adapter: Artifact) -> str:
    """Return the layers that an adapter's configuration names; nothing where it names a pattern."""
    file = adapter.path / "adapter_config.json"
    modules = json.loads(file.read_text("utf-8"))["target_modules"] if file.exists() else ""
    return ", ".join(modules) if isinstance(modules, list) else ""


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

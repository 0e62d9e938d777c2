"""What a server answers by: variants of one base, and the base itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Generation, Variant
from chatpipe.errors import ConfigError
from chatpipe.models.model_ref import ModelRef
from chatpipe.study.base_names import base_names
from chatpipe.study.lookup import find_model
from chatpipe.tokenization.encoder import Encoder


@dataclass(frozen=True)
class ServedModel:
    """A model by the name that requests call it.

    Attributes:
        encoder: Its tokenizer and the template that it was trained in.
        adapter: Its adapter's name on the model; None for the base.
        generation: The settings where a request has none.
    """

    name: str
    encoder: Encoder
    adapter: str | None
    generation: Generation


@dataclass(frozen=True)
class ServedBase:
    """A base with the adapters of its variants, before any weight is loaded."""

    base: Path
    adapters: tuple[Path, ...]
    quantization: Any
    variants: tuple[tuple[Variant, ModelRef], ...]


def served_base(variants: Sequence[Variant]) -> ServedBase:
    """Return what serves these variants; ConfigError where they have several bases, ArtifactError
    where one is not trained yet."""
    models = [(variant, find_model(variant)) for variant in variants]
    first, first_model = models[0]
    faults = [
        f"{variant.name} and {first.name} are of different bases (or quantizations); one server "
        "has one base: start a server for each."
        for variant, model in models
        if model.base.key != first_model.base.key or variant.quantization != first.quantization
    ]
    if faults:
        raise ConfigError(faults)
    paths = dict.fromkeys(model.adapter_path for _, model in models if model.adapter_path)
    return ServedBase(first_model.base.path, tuple(paths), first.quantization, tuple(models))


def served_models(served: ServedBase, tokenizer: Any) -> dict[str, ServedModel]:
    """Return the models by name: every variant, and the base as it is asked for each of them."""

    def model(name: str, variant: Variant, adapter: str | None) -> ServedModel:
        encoder = Encoder(tokenizer, variant.prompt_template, "all", 1 << 20)
        return ServedModel(name, encoder, adapter, variant.generation)

    models = {
        variant.name: model(variant.name, variant, ref.adapter.key if ref.adapter else None)
        for variant, ref in served.variants
    }
    variants = {variant.name: variant for variant in _without_measurement(served.variants)}
    for variant_name, name in base_names(list(variants.values())).items():
        models.setdefault(name, model(name, variants[variant_name], None))
    return models


def _without_measurement(variants: Sequence[tuple[Variant, ModelRef]]) -> list[Variant]:
    """The variants with the panel and the evaluation of the first: no request has these, so that a
    base has no second name by them."""
    first, _ = variants[0]
    common = {"panel": first.panel, "evaluation": first.evaluation}
    return [variant.model_copy(update=common) for variant, _ in variants]

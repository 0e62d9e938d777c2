"""Lists variants and studies, and describes a variant and its stored adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatpipe.config.schema import Variant
from chatpipe.config.yaml_files import to_yaml
from chatpipe.errors import ArtifactError, ChatpipeError
from chatpipe.store.artifact import Artifact
from chatpipe.store.paths import home
from chatpipe.store.remote import shared_store
from chatpipe.study.export import saved_names
from chatpipe.study.files import names
from chatpipe.study.loading import load_variant
from chatpipe.study.lookup import find_adapter
from chatpipe.study.studies import load_study, study_variants


def list_all() -> dict[str, Any]:
    """Return the names of all variants, studies and saved runs, and the store's directory."""
    return {
        "variants": names("variants"),
        "studies": names("studies"),
        "runs": saved_names(),
        "home": str(home()),
    }


def describe_variant(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a variant's settings and its adapter, or why there is none."""
    settings = load_variant(name, overrides, must_exist=False)
    try:
        adapter = find_adapter(settings)
        artifact: dict[str, Any] = {"path": _location(adapter), "digest": adapter.digest}
    except ArtifactError as error:
        artifact = {"missing": str(error)}
    return {**settings.model_dump(mode="json"), "adapter": artifact}


def describe_study(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the study's variants, and each one's adapter, or None where the store has none."""
    study = load_study(name)
    variants = study_variants(study, overrides, name, must_exist=False)
    return {
        "study": study.name,
        "variants": {variant.name: _adapter_location(variant) for variant in variants},
    }


def _adapter_location(variant: Variant) -> str | None:
    try:
        return _location(find_adapter(variant))
    except ChatpipeError:  # also where its rows are gone
        return None


def _location(adapter: Artifact) -> str:
    shared = None if adapter.path.exists() else shared_store()
    return f"{shared.address}/{adapter.kind}/{adapter.key}" if shared else str(adapter.path)


def print_mapping(mapping: dict[str, Any]) -> None:
    """Print as YAML."""
    print(to_yaml(mapping), end="")

"""Lists variants and studies, and describes a variant and its stored adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatpipe.config.yaml_files import to_yaml
from chatpipe.errors import ArtifactError
from chatpipe.store.artifact import Artifact
from chatpipe.store.paths import home
from chatpipe.store.remote import shared_store
from chatpipe.study.export import saved_names
from chatpipe.study.loading import load_variant, names
from chatpipe.study.lookup import find_adapter


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


def _location(adapter: Artifact) -> str:
    shared = None if adapter.path.exists() else shared_store()
    return f"{shared.address}/{adapter.kind}/{adapter.key}" if shared else str(adapter.path)


def print_mapping(mapping: dict[str, Any]) -> None:
    """Print as YAML."""
    print(to_yaml(mapping), end="")

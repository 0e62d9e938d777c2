"""What there is: variants, studies, and what the store holds of a variant."""

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


def everything() -> dict[str, Any]:
    """Names of all variants, studies and runs without a file of their own, and where things are
    kept."""
    return {
        "variants": names("variants"),
        "studies": names("studies"),
        "runs": saved_names(),
        "home": str(home()),
    }


def variant(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """One variant's settings, and its adapter where it has been run."""
    found = load_variant(name, overrides, must_exist=False)
    try:
        adapter = find_adapter(found)
        held: dict[str, Any] = {"path": _place(adapter), "digest": adapter.digest}
    except ArtifactError as error:
        held = {"missing": str(error)}
    return {**found.model_dump(mode="json"), "adapter": held}


def _place(adapter: Artifact) -> str:
    shared = None if adapter.path.exists() else shared_store()
    return f"{shared.address}/{adapter.kind}/{adapter.key}" if shared else str(adapter.path)


def print_mapping(found: dict[str, Any]) -> None:
    """As YAML, the form that it is written in."""
    print(to_yaml(found), end="")

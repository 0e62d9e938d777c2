"""The one way to have something made anew: remove its artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chatpipe.artifacts import store
from chatpipe.config import Variant
from chatpipe.errors import ConfigError
from chatpipe.loading import load_variant
from chatpipe.published import find
from chatpipe.sources import FetchDataset, FetchModel

OF_AN_ADAPTER = ("adapter", "scores", "generations", "report")
SOURCES = "sources"  # the base model and the data sets' files, as they were fetched


def forget_all() -> list[str]:
    """Remove every artifact; returns `kind/key` of each."""
    return _remove(store().all())


def forget(name: str, kind: str) -> list[str]:
    """Remove a variant's artifacts of that kind ("all": its adapter and what came of it;
    "sources": its base model and data sets as fetched, so that a hub is asked again)."""
    if kind not in (*OF_AN_ADAPTER, SOURCES, "all"):
        known = ", ".join((*OF_AN_ADAPTER, SOURCES, "all"))
        raise ConfigError([f"--kind {kind}: expected one of {known}."])
    if kind == SOURCES:
        return _forget_sources(load_variant(name))
    _, adapter = find(load_variant(name))
    kinds = OF_AN_ADAPTER if kind == "all" else (kind,)
    return _forget(lambda seal: seal["kind"] in kinds and adapter.digest in json.dumps(seal))


def _forget_sources(variant: Variant) -> list[str]:
    requests = [FetchModel.of(variant.base_model), *map(FetchDataset.of, variant.datasets)]
    keys = {request.key() for request in requests}
    return _forget(lambda seal: seal["key"] in keys)


def _forget(wanted: Callable[[dict[str, Any]], bool]) -> list[str]:
    kinds = {path.parent.name for path in store().all()}
    seals = [seal for kind in sorted(kinds) for seal in store().seals(kind) if wanted(seal)]
    return _remove(store().path(seal["kind"], seal["key"]) for seal in seals)


def _remove(paths: Iterable[Path]) -> list[str]:
    removed = []
    for path in list(paths):
        store().forget(path)
        removed.append(f"{path.parent.name}/{path.name}")
    return removed

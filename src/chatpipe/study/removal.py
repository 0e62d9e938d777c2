"""The one way to have something made anew: remove its artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chatpipe.config.schema import Variant
from chatpipe.errors import ArtifactError, ChatpipeError, ConfigError
from chatpipe.harness.fetch_task import FetchTask
from chatpipe.report.build import MakeReport
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.hub_splits import FindSplits
from chatpipe.store.artifact import references
from chatpipe.store.store import store
from chatpipe.study.lookup import adapter_request, source_requests, trained
from chatpipe.training.finetune import Finetune

OF_AN_ADAPTER = ("adapter", "scores", "generations", "replies", "task-scores", "report")
SOURCES = "sources"  # the base model, data sets and tasks, as they were fetched
ALL = "all"
_FETCHED = (FetchModel.kind, FetchDataset.kind, FindSplits.kind, FetchTask.kind)
# What of a variant an adapter comes from; the report records all of it.
_TRAINED_FROM = (
    *(
        "base_model",
        "datasets",
        "split",
        "data_share",
        "dedup",
        "prompt_template",
        "quantization",
        "lora",
        "training",
        "imported",
    ),
)


def check_kind(kind: str) -> None:
    """ConfigError unless it is a kind that can be forgotten."""
    kinds = (*OF_AN_ADAPTER, SOURCES, ALL)
    if kind not in kinds:
        raise ConfigError([f"--kind {kind}: expected one of {', '.join(kinds)}."])


def all_artifacts(kind: str = ALL) -> list[Path]:
    """Return every artifact of that kind, whatever variant it belongs to."""
    kinds = _FETCHED if kind == SOURCES else (kind,)
    return list(store().all()) if kind == ALL else [p for k in kinds for p in store().all(k)]


def artifacts_of(variant: Variant, kind: str) -> list[Path]:
    """Return a variant's artifacts of that kind ("all": its adapter and what came of it; "sources":
    its base model and data sets as fetched, so that a hub is asked again)."""
    if kind == SOURCES:
        return list(_sources_of(variant))
    kinds = OF_AN_ADAPTER if kind == ALL else (kind,)
    keys = _adapter_keys(variant)

    def belongs(manifest: dict[str, Any]) -> bool:
        if manifest["kind"] == Finetune.kind:
            return manifest["key"] in keys
        return any(
            (a.kind == Finetune.kind and a.key in keys) for a in references(manifest["asked"])
        )

    return list(_matching(kinds, belongs))


def remove(paths: Iterable[Path]) -> list[str]:
    """Remove artifacts; return `kind/key` of each."""
    removed = []
    for path in paths:
        store().forget(path)
        removed.append(f"{path.parent.name}/{path.name}")
    return removed


def remove_checkpoints(variant: Variant | None = None) -> list[str]:
    """Remove what unfinished steps left to go on from (of one variant); return its names."""
    if variant is None:
        return store().remove_work()
    keys = _adapter_keys(variant)
    return [name for key in sorted(keys) for name in store().remove_work(Finetune.kind, key)]


def missing(name: str, kind: str) -> ArtifactError:
    """Return the error that says that there is nothing of that kind to remove."""
    subject = "nothing of it is" if kind == ALL else f"no {kind} of it {_verb(kind)}"
    return ArtifactError(f"{name}: {subject} in the store; there is nothing to forget.")


def _verb(kind: str) -> str:
    return "are" if kind.endswith("s") else "is"


def _adapter_keys(variant: Variant) -> set[str]:
    """Keys of the adapters that this variant gave, those that are gone or unfinished included: as
    asked for today, by the adapters' own records, and by those of reports."""
    keys = set(_reported(variant))
    with suppress(ChatpipeError):  # the directory of its base is gone
        keys |= {manifest["key"] for manifest in trained(variant)}
    with suppress(ChatpipeError):  # its sources or corpus are gone
        keys.add(adapter_request(variant).key())
    return keys


def _sources_of(variant: Variant) -> Iterator[Path]:
    for request in source_requests(variant):
        key = request.key()
        yield from (path for path in store().all(request.kind) if path.name == key)


def _reported(variant: Variant) -> Iterator[str]:
    settings = variant.model_dump(mode="json")
    for manifest in store().manifests(MakeReport.kind):
        for model in manifest["asked"]["models"]:
            recorded = _with_defaults(model["variant"])
            same = all(recorded.get(key) == settings[key] for key in _TRAINED_FROM)
            if same and model["adapter"]:
                yield model["adapter"]["key"]


def _with_defaults(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded variant with the settings that came later; as it is where it cannot be."""
    try:
        return Variant.model_validate(recorded).model_dump(mode="json")
    except ValidationError:
        return recorded


def _matching(kinds: Sequence[str], belongs: Callable[[dict[str, Any]], bool]) -> Iterator[Path]:
    for kind in kinds:
        for manifest in store().manifests(kind):
            if belongs(manifest):
                yield store().path(manifest["kind"], manifest["key"])

"""What the store has of a variant: its base, its adapter, and the steps that led to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Dataset, Split, Variant
from chatpipe.data.own_heldout import HoldOut
from chatpipe.errors import ArtifactError, ChatpipeError
from chatpipe.evaluation.score import Score
from chatpipe.harness.fetch_task import FetchTask
from chatpipe.models.model_ref import ModelRef
from chatpipe.sources.fetch import FetchModel
from chatpipe.sources.hub_splits import FindSplits, ReadSplit, is_hub_split
from chatpipe.sources.saved_rows import rows_request
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.manifest import read_manifest
from chatpipe.store.remote import shared_store
from chatpipe.store.store import store, verify
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import Resolver, Step
from chatpipe.training.finetune import Finetune
from chatpipe.training.import_adapter import ImportAdapter, adapter_content


class NotStoredError(ArtifactError):
    """The store lacks something of a variant or study; `problem` says what."""

    def __init__(self, name: str, problem: str, command: str | None = None) -> None:
        super().__init__(f"{name}: {problem}; run `{command or f'chatpipe run {name}'}` first.")
        self.name = name
        self.problem = problem


class LookUp(Resolver):
    """Gives what is stored, here or in the shared store, and builds and fetches nothing.

    NotStoredError says what the store lacks, and what to run first.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # of the variant or study, for the error

    def resolve(self, step: Step) -> Artifact:
        request = step.request
        artifact = store().lookup(request)
        if artifact is None:
            is_damaged = store().path(request.kind, request.key()).is_dir()
            state = "is damaged" if is_damaged else "is not in the store"
            raise NotStoredError(self.name, f"its {request.kind} {state}")
        return artifact


class Published(BaseModel):
    """A variant's adapter, whole to the last byte, and the corpus that it was trained on; None for
    one that was trained elsewhere."""

    model_config = ConfigDict(frozen=True)

    variant: Variant
    adapter: Artifact
    corpus: Artifact | None


@contextmanager
def needs_run_of(study: str | None, variants: Iterable[Variant]) -> Iterator[None]:
    """What the store lacks of these variants is said to come from a run of that study, whose file
    alone may name them; of others, and without a study, from the variant's own run."""
    names = {variant.name for variant in variants}
    try:
        yield
    except NotStoredError as error:
        if study is None or error.name not in names:
            raise
        raise NotStoredError(error.name, error.problem, f"chatpipe compare {study}") from None


def stored(variant: Variant) -> Recipe:
    """Return the variant's steps, looked up in the store."""
    return Recipe([variant], LookUp(variant.name))


def find_model(variant: Variant) -> ModelRef:
    """Return the model of a variant that has been run, here or on a machine that shares its store;
    ArtifactError says what to run first."""
    request = adapter_request(variant)
    return ModelRef(request.base, _adapter(request, variant))


def find_adapter(variant: Variant) -> Artifact:
    """Return the adapter of `find_model`."""
    return _adapter(adapter_request(variant), variant)


def stored_score(variant: Variant, model: ModelRef, heldout: Artifact) -> Artifact | None:
    """Return the score of that model on those held-out rows; None where it is not stored."""
    return store().lookup(Score.of(variant, model, heldout))


def stored_heldout_sets(variant: Variant) -> Iterator[tuple[str, Artifact]]:
    """Yield the name and the rows of each of the variant's held-out sets that is stored.

    Held-out rows of one's own come once for every run that had them, with the variant's data sets
    alone or with others, its own run first. None come where rows have changed, or are gone.
    """
    recipe = stored(variant)
    for dataset in variant.datasets:
        with suppress(ChatpipeError):
            yield dataset.name, recipe.heldout(dataset, variant.split)
    if variant.heldout:
        with suppress(ChatpipeError):
            for heldout in _own_heldout(recipe, variant.heldout, variant.split):
                yield variant.heldout.name, heldout


def own_heldout(recipe: Recipe, dataset: Dataset, split: Split) -> Artifact:
    """Return the held-out rows of one's own that a run of the recipe's variants has: their own
    run or, where the store has none of that, the newest run of a study that also trains on other
    data sets.

    NotStoredError says what to run first, where there is neither.
    """
    return next(_own_heldout(recipe, dataset, split), None) or recipe.own_heldout(dataset, split)


def _own_heldout(recipe: Recipe, dataset: Dataset, split: Split) -> Iterator[Artifact]:
    """Yield the held-out rows of all runs that had them: of the recipe's variants first, then of
    studies that also train on other data sets, the newest first."""
    with suppress(NotStoredError):
        yield recipe.own_heldout(dataset, split)
    examples = recipe.examples(dataset)
    trained_on = {
        recipe.examples(trained).key for variant in recipe.variants for trained in variant.datasets
    }
    of_studies = [
        manifest
        for manifest in store().manifests(HoldOut.kind)
        if manifest["asked"]["examples"]["key"] == examples.key
        and manifest["asked"]["split"] == split.model_dump(mode="json")
        and trained_on < {part["key"] for part in manifest["asked"]["trained_on"]}
    ]
    for manifest in sorted(of_studies, key=lambda one: str(one["created"]), reverse=True):
        artifact = store().find(HoldOut.kind, manifest["key"])
        if artifact:
            yield artifact


def adapter_request(variant: Variant) -> Finetune | ImportAdapter:
    """Return the request for the variant's adapter, from what the store holds; ArtifactError where
    that is not all."""
    return stored(variant).adapter_request(variant)


def source_requests(variant: Variant) -> Iterator[Request]:
    """Yield the requests for the variant's base, tasks and data sets, without those of directories
    and files that are gone: their content is a part of the key."""
    with suppress(ChatpipeError):
        yield FetchModel.of(variant.base_model)
    for task in variant.evaluation.tasks:
        with suppress(ChatpipeError):
            yield FetchTask.of(task)
    for dataset in variant.read_datasets:
        with suppress(ChatpipeError):
            if is_hub_split(dataset):
                yield from _split_requests(dataset)
            else:
                yield rows_request(dataset)


def _split_requests(dataset: Dataset) -> Iterator[Request]:
    find = FindSplits.of(dataset)
    splits = store().lookup(find)
    if splits is not None:
        yield ReadSplit.of(dataset, splits)
    yield find


def latest(variant: Variant) -> Published | None:
    """Return the adapter of these settings and data sets: the one trained on today's rows, else the
    newest, trained on rows that have changed since; None where there is none.

    Raises ArtifactError where its content is not what its manifest records (every byte is read).
    """
    key = _bring_todays(variant)
    manifests = sorted(trained(variant), key=lambda manifest: str(manifest["created"]))
    if not manifests:
        return None
    manifest = next((one for one in manifests if one["key"] == key), manifests[-1])
    try:
        adapter = verify(store().path("adapter", manifest["key"]), deep=True)
        trained_on = manifest["asked"].get("corpus")
        corpus = verify(store().path("corpus", trained_on["key"])) if trained_on else None
    except ArtifactError as error:
        raise ArtifactError(
            f"{variant.name}: what is published of it is damaged: {error} Make it anew with "
            f"`chatpipe forget {variant.name}` and `chatpipe run {variant.name}`."
        ) from None
    return Published(variant=variant, adapter=adapter, corpus=corpus)


def _bring_todays(variant: Variant) -> str | None:
    """Return the key of the adapter that was trained on today's rows; None where there is none.

    Where only the shared store has it, it is fetched, with what says what it was trained on.
    """
    recipe = stored(variant)
    try:
        request = recipe.adapter_request(variant)
        adapter = _adapter(request, variant)
    except ChatpipeError:  # rows that were never fetched, have changed, or are gone
        return None
    if shared_store():
        store().fetch(adapter)
        if isinstance(request, Finetune):
            for artifact in (request.corpus, *map(recipe.examples, variant.datasets)):
                store().fetch(artifact)
    return adapter.key


def _adapter(request: Finetune | ImportAdapter, variant: Variant) -> Artifact:
    return LookUp(variant.name).resolve(Step(request, variant.name))


def trained(variant: Variant, or_unknown: bool = False) -> list[dict[str, Any]]:
    """Return the manifests of all adapters of the variant's settings, whatever the rows were.

    `or_unknown`: also of adapters whose corpus is gone, so that nothing says what they were trained
    on.
    """
    if variant.imported:
        return _imported(variant)
    settings = variant.model_dump(mode="json")
    base = FetchModel.of(variant.base_model).key()
    names = [dataset.name for dataset in variant.datasets]
    parts = ("prompt_template", "quantization", "lora", "training")
    of_rows = (names, settings["split"], settings["data_share"], settings["dedup"])
    rows = [of_rows, *([None] if or_unknown else [])]
    manifests = []
    for manifest in store().manifests(Finetune.kind):
        request = manifest["asked"]
        is_same = all(request.get(part) == settings[part] for part in parts)
        if is_same and request["base"]["key"] == base and _rows_of(request) in rows:
            manifests.append(manifest)
    return manifests


def _imported(variant: Variant) -> list[dict[str, Any]]:
    """Return the manifests of the copies of an adapter that was trained elsewhere."""
    assert variant.imported
    content = variant.imported.content or adapter_content(Path(variant.imported.path))
    base = FetchModel.of(variant.base_model).key()
    return [
        manifest
        for manifest in store().manifests(ImportAdapter.kind)
        if manifest["asked"].get("content") == content and manifest["asked"]["base"]["key"] == base
    ]


def _rows_of(request: dict[str, Any]) -> tuple[list[str], dict[str, Any], float, str] | None:
    """Return the names of the data sets that an adapter was trained on, how they were split, the
    share of their training rows, and which duplicates were left out."""
    try:
        merge = read_manifest(store().path("corpus", request["corpus"]["key"]))["asked"]
        paths = [store().path("examples", part["key"]) for part in merge["examples"]]
        names = [read_manifest(path)["asked"]["name"] for path in paths]
        return names, merge["split"], merge.get("data_share", 1.0), merge.get("dedup", "exact")
    except ArtifactError:  # forgotten: nothing says any more what the adapter was trained on
        return None

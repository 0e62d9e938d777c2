"""What the store already holds for a variant: its base and its adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Variant
from chatpipe.errors import ArtifactError, ChatpipeError
from chatpipe.models.model_ref import ModelRef
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.manifest import read_seal
from chatpipe.store.remote import shared_store
from chatpipe.store.store import store, verify
from chatpipe.study.recipe import Recipe, Resolver, Step
from chatpipe.training.finetune import Finetune


class LookUp(Resolver):
    """Gives what is stored, here or in the shared store, and builds and fetches nothing.

    ArtifactError says what the store lacks, and what to run first.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # of the variant or study, for the error

    def resolve(self, step: Step) -> Artifact:
        request = step.request
        artifact = store().held(request)
        if artifact is None:
            is_damaged = store().path(request.kind, request.key()).is_dir()
            state = "is damaged" if is_damaged else "is not in the store"
            raise ArtifactError(
                f"{self.name}: its {request.kind} {state}; run `chatpipe run {self.name}` first."
            )
        return artifact


class Published(BaseModel):
    """A variant's adapter, whole to the last byte, and the corpus that it was trained on."""

    model_config = ConfigDict(frozen=True)

    variant: Variant
    adapter: Artifact
    corpus: Artifact


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


def adapter_request(variant: Variant) -> Finetune:
    """Return the variant's Finetune, from what the store holds; ArtifactError where that is not
    all."""
    return stored(variant).finetune(variant)


def source_requests(variant: Variant) -> Iterator[Request]:
    """Yield the requests for the variant's base and data sets, without those of directories and
    files that are gone: their content is a part of the key."""
    with suppress(ChatpipeError):
        yield FetchModel.of(variant.base_model)
    for dataset in variant.datasets:
        with suppress(ChatpipeError):
            yield FetchDataset.of(dataset)


def latest(variant: Variant) -> Published | None:
    """The adapter of these settings and data sets, whose rows may have changed since: the one
    trained on today's rows, else the newest; None where there is none.

    Raises ArtifactError where its content is not what was sealed (every byte is read).
    """
    key = _bring_todays(variant)
    seals = sorted(trained(variant), key=lambda seal: str(seal["created"]))
    if not seals:
        return None
    seal = next((seal for seal in seals if seal["key"] == key), seals[-1])
    try:
        adapter = verify(store().path("adapter", seal["key"]), deep=True)
        corpus = verify(store().path("corpus", seal["asked"]["corpus"]["key"]))
    except ArtifactError as error:
        raise ArtifactError(
            f"{variant.name}: what is published of it is damaged: {error} Make it anew with "
            f"`chatpipe forget {variant.name}` and `chatpipe run {variant.name}`."
        ) from None
    return Published(variant=variant, adapter=adapter, corpus=corpus)


def _bring_todays(variant: Variant) -> str | None:
    """The key of the adapter that was trained on today's rows, which is fetched, with what says
    what it was trained on, where only the shared store has it; None where there is none."""
    recipe = stored(variant)
    try:
        request = recipe.finetune(variant)
        adapter = _adapter(request, variant)
    except ChatpipeError:  # rows that were never fetched, have changed, or are gone
        return None
    if shared_store():
        examples = [recipe.examples(dataset) for dataset in variant.datasets]
        for artifact in (adapter, request.corpus, *examples):
            store().bring(artifact)
    return adapter.key


def _adapter(request: Finetune, variant: Variant) -> Artifact:
    return LookUp(variant.name).resolve(Step(request, variant.name))


def trained(variant: Variant, or_unknown: bool = False) -> list[dict[str, Any]]:
    """Seals of all adapters that the variant's settings gave, whatever the rows were; also of those
    of which nothing says any more what they were trained on, if `or_unknown`."""
    wanted = variant.model_dump(mode="json")
    base = FetchModel.of(variant.base_model).key()
    names = [dataset.name for dataset in variant.datasets]
    parts = ("prompt_template", "quantization", "lora", "training")
    rows = [(names, wanted["split"]), *([None] if or_unknown else [])]
    found = []
    for seal in store().seals(Finetune.kind):
        asked = seal["asked"]
        same = all(asked.get(part) == wanted[part] for part in parts)
        if same and asked["base"]["key"] == base and _rows_of(asked) in rows:
            found.append(seal)
    return found


def _rows_of(asked: dict[str, Any]) -> tuple[list[str], dict[str, Any]] | None:
    """Names of the data sets that an adapter was trained on, and how they were split."""
    try:
        merged = read_seal(store().path("corpus", asked["corpus"]["key"]))["asked"]
        paths = [store().path("examples", part["key"]) for part in merged["examples"]]
        return [read_seal(path)["asked"]["name"] for path in paths], merged["split"]
    except ArtifactError:  # forgotten: nothing says any more what the adapter was trained on
        return None

"""What the store already holds for a variant: its base and its adapter."""

from __future__ import annotations

from chatpipe.artifacts import Artifact, Request, store
from chatpipe.config import Variant
from chatpipe.corpus import Merge, Normalize
from chatpipe.errors import ArtifactError
from chatpipe.finetuning import Finetune
from chatpipe.sources import FetchDataset, FetchModel


def find(variant: Variant) -> tuple[Artifact, Artifact]:
    """(base, adapter) of a variant that has been run; ArtifactError says what to run first."""
    base = _held(FetchModel.of(variant.base_model), variant)
    examples = []
    for dataset in variant.datasets:
        raw = _held(FetchDataset.of(dataset), variant)
        examples.append(_held(Normalize.of(dataset, raw), variant))
    corpus = _held(Merge(examples=tuple(examples), split=variant.split), variant)
    return base, _held(Finetune.of(variant, base, corpus), variant)


def _held(request: Request, variant: Variant) -> Artifact:
    found = store().find(request.kind, request.key())
    if found is None:
        raise ArtifactError(
            f"{variant.name}: its {request.kind} is not in the store; "
            f"run `chatpipe run {variant.name}` first."
        )
    return found

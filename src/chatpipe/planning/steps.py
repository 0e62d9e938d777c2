"""The steps of a variant before it is run: which artifacts exist, which would be built or
downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.data.own_heldout import HoldOut
from chatpipe.errors import HubUnreachableError, SourceError
from chatpipe.harness.fetch_task import FetchTask
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.hub import offline
from chatpipe.sources.hub_splits import FindSplits, ReadSplit
from chatpipe.sources.saved_rows import ReadSaved
from chatpipe.store.artifact import Artifact, Request, shared_manifest
from chatpipe.store.store import store
from chatpipe.study.resolving import Resolver, Step
from chatpipe.study.template_check import CheckChatTemplate
from chatpipe.training.import_adapter import ImportAdapter


class PlannedStep(BaseModel):
    """One artifact: what it is of, whether it is there, and its bytes where they are known."""

    model_config = ConfigDict(frozen=True)

    kind: str
    what: str
    state: Literal["exists", "make", "download"]
    bytes: int | None = None


class DryRun(Resolver):
    """Notes the state of every step, and returns placeholders for what is missing.

    What takes seconds is built: rows whose files are here, links to a local base, the check of a
    base's own chat template, and the copy of an adapter that was trained elsewhere.
    """

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str, str], PlannedStep] = {}

    def resolve(self, step: Step) -> Artifact:
        request = step.request
        if any(artifact.is_pending for artifact in request.upstream()):
            self._note(step, PlannedStep(kind=request.kind, what=step.label, state="make"))
            return Artifact.pending(request)
        if isinstance(request, FetchModel) and request.path is not None:
            store().get_or_build(request)  # links; nothing is copied
        planned, artifact = _state_of(request, step.label)
        self._note(step, planned)
        if isinstance(request, FindSplits):
            return artifact or _splits(request)
        if _is_quick(request, artifact):
            return store().get_or_build(request)
        return artifact or Artifact.pending(request)

    def steps(
        self, download_bytes: Mapping[tuple[str, str], int | None]
    ) -> tuple[PlannedStep, ...]:
        """Return the steps in their order.

        Args:
            download_bytes: (kind, what) → bytes to download, of what no store has.
        """

        def sized(step: PlannedStep) -> PlannedStep:
            if step.state != "download" or step.bytes is not None:
                return step
            size = download_bytes.get((step.kind, step.what))
            return step.model_copy(update={"bytes": size})

        return tuple(map(sized, self._steps.values()))

    def _note(self, step: Step, planned: PlannedStep) -> None:
        """Keep the first of each step. Labels tell placeholders apart that have the same key."""
        self._steps.setdefault((planned.kind, step.request.key(), step.label), planned)


def _state_of(request: Request, what: str) -> tuple[PlannedStep, Artifact | None]:
    """Return the state of the step, and its artifact where the store has it."""
    kind, key = request.kind, request.key()
    if artifact := store().find(kind, key):
        return PlannedStep(kind=kind, what=what, state="exists", bytes=artifact.size()), artifact
    if manifest := shared_manifest(kind, key):
        size = sum(file["size"] for file in manifest["files"].values())
        artifact = Artifact(kind=kind, key=key, digest=manifest["digest"])
        return PlannedStep(kind=kind, what=what, state="download", bytes=size), artifact
    is_remote = isinstance(request, FindSplits | ReadSplit) or (
        isinstance(request, FetchDataset | FetchModel | FetchTask) and request.path is None
    )
    return PlannedStep(kind=kind, what=what, state="download" if is_remote else "make"), None


def _is_quick(request: Request, artifact: Artifact | None) -> bool:
    """Whether it takes seconds: rows whose files are on this machine or in the shared store, a
    template that is tried on held-out rows, and a copy of an adapter."""
    if isinstance(request, FetchDataset):
        return artifact is not None or request.path is not None
    if isinstance(request, ReadSplit):
        return artifact is not None
    if isinstance(request, FetchTask):
        return artifact is not None or request.path is not None
    return isinstance(
        request, ReadSaved | Normalize | Merge | HoldOut | CheckChatTemplate | ImportAdapter
    )


def _splits(request: FindSplits) -> Artifact:
    """Return what the hub says of its splits, which is little; a placeholder where it is not
    reachable."""
    try:
        return store().get_or_build(request)
    except SourceError as error:
        if isinstance(error, HubUnreachableError) or offline("dataset"):
            return Artifact.pending(request)
        raise

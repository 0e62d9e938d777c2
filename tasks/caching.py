"""The only clever file: a task's cache key is its artifact's own place in the store.

Prefect's record of a finished task is written inside the artifact's directory, so a record
cannot outlive its artifact, and a hit is verified before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.serializers import Serializer
from prefect.transactions import get_transaction
from pydantic import Field

from chatpipe.errors import HubUnreachableError, SharedStoreError
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.manifest import RECORD
from chatpipe.store.store import store
from chatpipe.utils.atomic_writes import write_atomically

RECORD_BYTES = 4096
# What the tasks of this process did, as "kind/key": bodies that ran, and verified hits.
BUILT: list[str] = []
HITS: set[str] = set()
# So many cached steps of a process have a task run of their own, which costs about 10 ms. Of more,
# the others are looked up in the store, which costs 1 ms.
SHOWN_HITS = 60


@dataclass
class ArtifactPolicy(CachePolicy):
    """The key of a task is where the artifact of its one parameter, `request`, belongs."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        request: Request = inputs["request"]
        return f"{request.kind}/{request.key()}/{RECORD}"


class VerifiedArtifact(Serializer):  # unparametrized: Prefect registers by class
    """An artifact reference as JSON; loading one whose files are gone or changed fails, which
    Prefect takes as a miss and runs the task again."""

    type: str = Field(default="chatpipe-artifact", frozen=True)

    def dumps(self, obj: Artifact) -> bytes:
        return obj.model_dump_json().encode()

    def loads(self, blob: bytes) -> Artifact:
        recorded = Artifact.model_validate_json(blob)
        artifact = store().check(recorded.kind, recorded.key)
        if artifact != recorded:
            raise ValueError(f"{recorded.kind}/{recorded.key} was rebuilt since it was recorded")
        if not store().shared(artifact.path):
            raise ValueError(f"{recorded.kind}/{recorded.key} is not in the shared store yet")
        HITS.add(f"{artifact.kind}/{artifact.key}")
        return artifact


def find_without_task(request: Request) -> Artifact | None:
    """Return the artifact of a request if the store has it, verified as a cached task's, and enough
    cached steps have a task run already."""
    if len(HITS) < SHOWN_HITS:
        return None
    artifact = store().find(request.kind, request.key())
    if artifact is None or not store().shared(artifact.path):
        return None
    HITS.add(f"{artifact.kind}/{artifact.key}")
    return artifact


def _may_pass(task: Task[..., Artifact], run: TaskRun, state: State[Artifact]) -> bool:
    """Retry what a network may mend; the same bad input stays bad."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, HubUnreachableError | SharedStoreError)


RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [5, 30, 120],
    "retry_condition_fn": _may_pass,
}


P = ParamSpec("P")


def _record_nothing() -> None:
    """Have Prefect write no record of this task: an exception is no artifact, and its serializer
    would say so at length; nor can one be written where the disk takes nothing."""
    context, transaction = TaskRunContext.get(), get_transaction()
    if context is not None:
        context.persist_result = False
    if transaction is not None:
        transaction.write_on_commit = False


def _is_writable(directory: Path) -> bool:
    """Whether a file of a record's size can be written there."""
    try:
        write_atomically(directory / f".{RECORD}-probe", b" " * RECORD_BYTES)
        (directory / f".{RECORD}-probe").unlink()
    except OSError:
        return False
    return True


def step(**options: Any) -> Callable[[Callable[P, Artifact]], Task[P, Artifact]]:
    """A task from one request to one artifact, cached across runs by what was asked.

    Prefect fixes a task's storage when the task is defined, so a process has one store:
    CHATPIPE_HOME is read when this module is imported.
    """

    def as_task(body: Callable[P, Artifact]) -> Task[P, Artifact]:
        @wraps(body)
        def counted(*args: P.args, **kwargs: P.kwargs) -> Artifact:
            try:
                artifact = body(*args, **kwargs)
            except Exception:
                _record_nothing()
                raise
            BUILT.append(f"{artifact.kind}/{artifact.key}")
            if not _is_writable(artifact.path):
                _record_nothing()
            return artifact

        return task(
            result_storage=store().root,
            cache_policy=ArtifactPolicy(),
            result_serializer=VerifiedArtifact(),
            cache_result_in_memory=False,
            **RETRIED,
            **options,
        )(counted)

    return as_task

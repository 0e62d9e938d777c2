"""Steps, and what gives their artifacts.

There are three kinds of `Resolver`, so that a run, a plan and a look-up agree on every key:

- build: `StoreBuilder`, in this process; `Build` of the flows, by Prefect tasks
- look up: `LookUp`, what the store has, or an error that says what to run first
- plan: `DryRun`, what would be built, with placeholders for artifacts that do not exist yet
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from chatpipe.report import MissingCell
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.store import store


class Step(NamedTuple):
    """A request, and what a person calls its subject."""

    request: Request
    label: str


class Job(NamedTuple):
    """Steps of one model for one machine, one after another. No job needs what another one makes.

    `model` is its name in the report.
    """

    label: str
    steps: tuple[Step, ...]
    model: str


class Resolver(ABC):
    """Gives the artifacts of requests: builds them, looks them up, or plans them."""

    @abstractmethod
    def resolve(self, step: Step) -> Artifact:
        """Return the artifact of that step's request."""

    def resolve_jobs(self, jobs: Sequence[Job]) -> list[list[Artifact] | None]:
        """Return the artifacts of every job's steps; None for a failed job that the report does
        without. The jobs may run at once, on several machines, or share what they load."""
        return [[self.resolve(step) for step in job.steps] for job in jobs]

    def resolve_optional(self, step: Step) -> Artifact | None:
        """Return the artifact of a step that the report may do without; None if it failed."""
        return self.resolve(step)

    def missing(self) -> tuple[MissingCell, ...]:
        """Return the models that are not in the report because a step failed."""
        return ()


class StoreBuilder(Resolver):
    """Builds in this process what the store does not have."""

    def resolve(self, step: Step) -> Artifact:
        return store().get_or_build(step.request)

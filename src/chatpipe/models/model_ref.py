"""A model as every step after training names it: a base, with or without an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chatpipe.store.artifact import Artifact


@dataclass(frozen=True)
class ModelRef:
    """A base model, with or without an adapter on it."""

    base: Artifact
    adapter: Artifact | None = None

    @property
    def adapter_path(self) -> Path | None:
        """Where its adapter lies; None where it is the base itself."""
        return self.adapter.path if self.adapter else None

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return what it is loaded from."""
        return (self.base, self.adapter) if self.adapter else (self.base,)

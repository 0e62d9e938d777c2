"""Decides whether a training resumes from a checkpoint of other library versions or processes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from chatpipe.training.checkpoints import Checkpoint, newest_checkpoint, remove_old_checkpoints

LOG = logging.getLogger(__name__)


def training_setup() -> dict[str, Any]:
    """Return what an adapter's bytes depend on beside its request: library versions, processes."""
    from accelerate import PartialState

    from chatpipe.models.devices import library_versions

    return {"processes": PartialState().num_processes, "versions": library_versions()}


def checkpoint_to_resume(work: Path, has_dropout: bool) -> Checkpoint | None:
    """Return the newest complete checkpoint, or None if training has to start again.

    With another number of processes, dropout would be drawn from other random states than those
    of the uninterrupted training: its checkpoints are removed. Other differences are warned of.
    """
    checkpoint = newest_checkpoint(work)
    if checkpoint is None:
        return None
    differences = setup_differences(checkpoint.setup, training_setup())
    if not differences:
        return checkpoint
    written = f"{checkpoint.path.name} was written with {', '.join(differences)}"
    if has_dropout and checkpoint.setup["processes"] != training_setup()["processes"]:
        LOG.warning("%s, which draw other dropout: training starts anew", written)
        remove_old_checkpoints(work, kept=0)
        return None
    LOG.warning("%s: the adapter may differ from that of an uninterrupted training", written)
    return checkpoint


def setup_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the differences, like `torch 2.1 (now 2.2)`; none if nothing was recorded."""
    if not before:
        return []
    versions = now["versions"]
    differences = [
        f"{name} {version} (now {versions.get(name, 'missing')})"
        for name, version in before["versions"].items()
        if versions.get(name) != version
    ]
    if before["processes"] != now["processes"]:
        differences.append(f"{before['processes']} processes (now {now['processes']})")
    return differences

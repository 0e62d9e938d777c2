"""Callbacks of a training: progress, a check of the loss, checkpoints, stopping."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed
from transformers import TrainerCallback

from chatpipe.errors import StoppedError, TrainingError
from chatpipe.runtime.progress import Reporter
from chatpipe.runtime.stopping import StopRequest
from chatpipe.training.checkpoints import remove_old_checkpoints, write_checkpoint_manifest
from chatpipe.training.resuming import training_setup


class Clock:
    """Measures the seconds of training, including those before a resumption."""

    def __init__(self, started: float, seconds_before: float) -> None:
        self.started = started - seconds_before

    def seconds(self) -> float:
        """Return the seconds until now."""
        return time.monotonic() - self.started


class TrainingWatch(TrainerCallback):  # type: ignore[misc]
    """Reports progress, writes manifests of checkpoints, and ends a training that diverges or is
    told to stop. reports: whether progress is reported."""

    def __init__(
        self, work: Path, clock: Clock, stop_request: StopRequest, reports: bool = True
    ) -> None:
        self.work = work
        self.reports = reports
        self.clock = clock
        self.stop_request = stop_request
        self.is_stopping = False
        self.reporter: Reporter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a training that was told to stop before its first step; there is nothing to save."""
        if _any_process(bool(self.stop_request)):
            raise StoppedError(f"training was stopped before step {state.global_step + 1}.")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save a checkpoint after this step if the training was told to stop."""
        self.is_stopping = _any_process(bool(self.stop_request))
        control.should_save = control.should_save or self.is_stopping

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report progress; TrainingError for a loss that is not finite."""
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is None:
            return
        if self.reports:
            self.reporter = self.reporter or Reporter(state.max_steps, "steps")
            self.reporter(state.global_step, float(loss))
        if not math.isfinite(float(loss)):
            raise TrainingError(
                f"the loss became {loss} at step {state.global_step}; "
                "lower training.learning_rate or check the rows."
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the checkpoint's manifest when all processes wrote their files; remove old ones."""
        process = PartialState()
        process.wait_for_everyone()
        if process.is_main_process:
            path = self.work / f"checkpoint-{state.global_step}"
            write_checkpoint_manifest(path, self.clock.seconds(), training_setup())
            remove_old_checkpoints(self.work)
        if self.is_stopping:
            process.wait_for_everyone()  # the launcher ends all when one has ended
            raise _stopped(state)

    def raise_if_stopped(self, state: Any) -> None:
        """Raise StoppedError if the training was told to stop; its checkpoint is complete."""
        if _any_process(bool(self.stop_request)):
            raise _stopped(state)


def _stopped(state: Any) -> StoppedError:
    return StoppedError(
        f"training was stopped after step {state.global_step} of {state.max_steps}, with a "
        "checkpoint; run the same command again to go on."
    )


def _any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process of this training."""
    state = PartialState()
    if state.num_processes == 1:
        return flag
    flags = torch.tensor([int(flag)], device=state.device)
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return bool(flags.item())

"""What is done beside a training's steps: progress, a look at the loss, checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from chatpipe.checkpoints import remove_old_checkpoints, seal_checkpoint
from chatpipe.errors import TrainingError
from chatpipe.progress import Reporter


class Clock:
    """Seconds of training, with those before a resumption."""

    def __init__(self, started: float, seconds_before: float) -> None:
        self.started = started - seconds_before

    def seconds(self) -> float:
        """Until now."""
        return time.monotonic() - self.started


class TrainingWatch(TrainerCallback):  # type: ignore[misc]
    """Reports progress, ends a training whose loss is not finite, and seals checkpoints."""

    def __init__(self, work: Path, clock: Clock) -> None:
        self.work = work
        self.clock = clock
        self.reporter: Reporter | None = None

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After every step: progress, and TrainingError for a loss that is not finite."""
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is None:
            return
        self.reporter = self.reporter or Reporter(state.max_steps, "steps")
        self.reporter(state.global_step, float(loss))
        if not math.isfinite(float(loss)):
            raise TrainingError(
                f"the loss became {loss} at step {state.global_step}; "
                "lower training.learning_rate or check the rows."
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After all processes wrote their files: seal the checkpoint, remove old ones."""
        process = PartialState()
        process.wait_for_everyone()
        if process.is_main_process:
            seal_checkpoint(self.work / f"checkpoint-{state.global_step}", self.clock.seconds())
            remove_old_checkpoints(self.work)

"""The forward passes of a training's steps: how large they are, and smaller ones where the device
is out of memory although `auto` has chosen them.

Passes change no result: a step is the mean over all its scored tokens.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from chatpipe.config.schema import AUTO, Training
from chatpipe.models.checkpointing import checkpoint_layers
from chatpipe.models.memory import Batch
from chatpipe.utils.atomic_writes import write_atomically

LOG = logging.getLogger(__name__)
FILE = "pass-tokens"  # in the work directory: the limit that an ended training has left
LEAST_TOKENS = 16


def agreed_pass(batch: Batch, processes: int, work: Path, longest: int) -> Batch:
    """Return the largest pass of all processes that train together: that of the one with the least
    room, and no more than an earlier start of this training had memory for."""
    from accelerate.utils import gather_object  # brings torch, which flows do without

    batches = gather_object([batch]) if processes > 1 else [batch]
    every = [each.checkpoint_every for each in batches if each.checkpoint_every]
    smallest = min(batches, key=lambda each: each.tokens)
    tokens = max(longest, min(smallest.tokens, _limit(work) or smallest.tokens))
    scored = round(smallest.scored * tokens / smallest.tokens)
    return Batch(tokens=tokens, scored=scored, checkpoint_every=min(every, default=0))


def _limit(work: Path) -> int | None:
    try:
        return int((work / FILE).read_text("ascii"))
    except (OSError, ValueError):
        return None


class Passes:
    """The passes of one training. `checkpoint_every`: every so many layers, one is computed again;
    0: none."""

    def __init__(self, training: Training, batch: Batch, work: Path) -> None:
        self._chooses_tokens = training.micro_batch_tokens == AUTO
        self._chooses_checkpointing = training.gradient_checkpointing == AUTO
        tokens = training.micro_batch_tokens
        self.max_tokens = tokens if isinstance(tokens, int) else batch.tokens
        self.checkpoint_every = batch.checkpoint_every
        self._file = work / FILE
        self._smaller: list[dict[str, int]] = []

    def make_smaller(self, trainer: Any, rows: Any, count: int) -> bool:
        """After an error of exhausted memory, return whether the rows of the step, which were in so
        many passes, can be tried again: in passes of half as many tokens or, where each row has one
        for itself, with all layers checkpointed.

        Several processes wait for each other in the middle of a step, so theirs cannot be tried
        again: the next start of this training has the smaller passes.
        """
        examples = [len(example.input_ids) for row in rows for example in row]
        alone = bool(trainer.accelerator.num_processes == 1)
        if self._chooses_tokens and count < len(examples):
            self.max_tokens = max(LEAST_TOKENS, min(self.max_tokens, sum(examples)) // 2)
            write_atomically(self._file, str(self.max_tokens).encode())
        elif alone and self._chooses_checkpointing and self.checkpoint_every != 1:
            if not checkpoint_layers(trainer.model.get_base_model(), 1):
                return False
            self.checkpoint_every = 1
        else:
            return False
        step = trainer.state.global_step + 1
        self._smaller.append({"step": step, **self._sizes()})
        LOG.warning(
            "out of memory in step %d; %s, passes have at most %d tokens%s",
            step,
            "from here on" if alone else "at the next start of this training",
            self.max_tokens,
            ", and all layers are computed again" if self.checkpoint_every == 1 else "",
        )
        return alone

    def _sizes(self) -> dict[str, int]:
        return {"micro_batch_tokens": self.max_tokens, "checkpoint_every": self.checkpoint_every}

    def record(self) -> dict[str, Any]:
        """Return them as a manifest has them, with the steps at which they became smaller."""
        return self._sizes() | ({"out_of_memory": self._smaller} if self._smaller else {})

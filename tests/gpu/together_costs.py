"""What the steps of four trainings of one base cost on a GPU, one after another and together."""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import partial
from typing import Any

from chatpipe.config.schema import Lora, Quantization
from chatpipe.models.lora import with_adapter
from chatpipe.models.memory import Batch
from chatpipe.packing.batching import batching_for
from chatpipe.training.group import SharedPasses, with_shared_weights
from chatpipe.training.step_work import StepWork
from chatpipe.training.turns import Turn
from tests.gpu.step_costs import TOKENS, StepCost, rows_of, step_cost, trained_alone, trainer_of
from tests.gpu.watch import Watch

TRAININGS = 4
ROWS, LENGTH = 2, 128  # of a step of each: those of the 2023 study
CASE = f"{TRAININGS} trainings of {ROWS} rows of {LENGTH} tokens, NF4"


def together_costs() -> dict[str, StepCost]:
    """By the case; in the fake mode of this moment."""
    alone = step_cost(partial(trained_alone, rows_of(ROWS, LENGTH)), Quantization())
    calls = {call: TRAININGS * count for call, count in alone.calls.items()}
    together = step_cost(_trained_together, Quantization())
    tokens = TRAININGS * ROWS * LENGTH
    return {
        f"{CASE}, one after another": StepCost(Counter(calls), TRAININGS * alone.syncs, tokens),
        f"{CASE}, together": StepCost(together.calls, together.syncs, tokens),
    }


def _trained_together(base: Any, steps: int) -> Watch:
    """Train four adapters for so many steps each; return what was counted."""
    with Watch():
        model = with_adapter(with_shared_weights(base), Lora())
        batching = batching_for(model)
        passes = SharedPasses(base, model, batching, Batch(tokens=TOKENS, scored=TOKENS))
    watch = Watch()

    def training(folder: str, turn: Turn[StepWork, Any]) -> None:
        own = with_adapter(passes.own_base(), Lora())
        trainer = trainer_of(own, batching, rows_of(ROWS, LENGTH), steps, folder)
        trainer.joint = passes.joint(turn, own)
        trainer.train()

    with tempfile.TemporaryDirectory() as folder, watch:
        for turn in passes.run([partial(training, folder)] * TRAININGS):
            if turn.error:
                raise turn.error
    return watch

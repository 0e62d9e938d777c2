"""Trainings of one base in one process, which share its weights and the passes through it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from chatpipe.kernels.dequantize import is_quantized
from chatpipe.kernels.fused_layers import fused_layers
from chatpipe.kernels.lora_together import AdapterSet, has_only_joined_layers
from chatpipe.kernels.switch import is_enabled
from chatpipe.models.concurrency import sharing_fault
from chatpipe.models.memory import Batch
from chatpipe.models.passes import StepRows, own_pass
from chatpipe.packing.batching import PACKED, Batching
from chatpipe.runtime.stopping import StopRequest
from chatpipe.training.joint_step import JointStep
from chatpipe.training.step_work import StepWork
from chatpipe.training.trainer import LORA, half_precision, has_dropout, max_training_threads
from chatpipe.training.turns import Turn, take_turns
from chatpipe.training.watch import Clock


class TurnClock(Clock):
    """Measures what a training took of the machine: its own turns and its share of the passes."""

    def __init__(self, turn: Turn[StepWork, torch.Tensor], seconds_before: float) -> None:
        self.turn = turn
        self.seconds_before = seconds_before

    def seconds(self) -> float:
        return self.seconds_before + self.turn.seconds


class SharedPasses:
    """The passes through a base that trainings share, each at most as large as `batch`. `model` is
    the base with an adapter like theirs, whose rows `batching` puts into batches."""

    def __init__(self, base: Any, model: Any, batching: Batching, batch: Batch) -> None:
        self.base = base
        self.batching = batching
        self.batch = batch
        # Another copy, because the base itself is what each training makes its own of.
        self.passed = with_shared_weights(base).train()
        self.adapters = AdapterSet(self.passed, model)
        self.step = JointStep(
            self.adapters,
            partial(half_precision, self.passed),
            batch.tokens,
            max_training_threads(model, 1, batching),
        )

    def own_base(self) -> Any:
        """Return the base with modules of its own, on which an adapter may be put."""
        return with_shared_weights(self.base)

    def joint(self, turn: Turn[StepWork, torch.Tensor], model: Any) -> Any:
        """Return what computes the steps of that model's adapter, for its `AdapterTrainer`."""
        self.adapters.add(turn, model)
        return turn.ask

    def run(
        self, trainings: Sequence[Callable[[Turn[StepWork, torch.Tensor]], Any]]
    ) -> list[Turn[StepWork, torch.Tensor]]:
        """Run the trainings to their ends; return their turns, with their results."""
        with (
            self.batching.attention(self.passed),
            fused_layers(self.passed),
            self.adapters.on_base(),
        ):
            return take_turns(trainings, self.step.losses)


class Member(NamedTuple):
    """One training of a group: what it shares with the others, and how it takes its turns. size:
    how many began together. is_shown: whether progress is its progress."""

    passes: SharedPasses
    turn: Turn[StepWork, torch.Tensor]
    stop_request: StopRequest
    size: int
    is_shown: bool

    def own_base(self) -> Any:
        """Return the base with modules of its own, on which an adapter may be put."""
        return self.passes.own_base()

    def own_pass(self, rows: StepRows) -> Batch:
        """Return the largest pass of this training's rows."""
        return own_pass(self.passes.batch, rows)

    def joint(self, model: Any) -> Any:
        """Return what computes the steps of that model's adapter."""
        return self.passes.joint(self.turn, model)

    def clock(self, seconds_before: float) -> Clock:
        """Return the clock of this training."""
        return TurnClock(self.turn, seconds_before)

    @contextmanager
    def signals(self) -> Iterator[StopRequest]:
        """Yield what asks the whole group to stop."""
        yield self.stop_request


def with_shared_weights(model: Any) -> Any:
    """Return a copy of the model's modules, with the same weights in memory."""
    states = (getattr(module, "quant_state", None) for module in model.modules())
    shared = [*model.parameters(), *model.buffers(), *states]
    states = (getattr(weight, "quant_state", None) for weight in model.parameters())
    memo = {id(item): item for item in [*shared, *states] if item is not None}
    return copy.deepcopy(model, memo)


def group_fault(model: Any, batching: Batching) -> str | None:
    """Return why trainings on this base, of which `model` is one with an adapter, do not share
    passes; None where they do, and each adapter is the one that its training alone would give."""
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"
    drops = has_dropout(model)
    faults = {
        "rows are not packed": batching is not PACKED,
        "LoRA's joined products are switched off": not is_enabled(LORA),
        "some adapted layers are of another kind": not has_only_joined_layers(model),
        "float16 needs a scaler for each": model.dtype is torch.float16,
        # Checking one adapter would repack the weights that the others are trained on.
        "4-bit weights were not dequantized on this CPU": on_cpu and is_quantized(model),
        "dropout is torch's own": on_cpu and drops and not is_enabled("sparse_dropout"),
        "layers with dropout are computed again": drops and model.is_activation_checkpointing,
    }
    return next((fault for fault, applies in faults.items() if applies), sharing_fault(model))

"""Several trainings of one base in one process. Each keeps its rows, their order, its optimizer,
schedule, random numbers, checkpoints and artifact; only the passes through the base are shared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from chatpipe.errors import ChatpipeError, StoppedError
from chatpipe.kernels.switch import KernelRecord, recorded_kernels
from chatpipe.runtime import oom, processes
from chatpipe.runtime.stopping import StopRequest, deferred_signals
from chatpipe.store.artifact import Request
from chatpipe.store.store import store
from chatpipe.training.finetune import Finetune, with_new_adapter

if TYPE_CHECKING:
    from chatpipe.models.memory import Batch
    from chatpipe.training.group import Member
    from chatpipe.training.turns import Turn

LOG = logging.getLogger(__name__)
AUTO_MOST = 8  # trainings of a group whose size was left to chatpipe
# What trainings that share passes have in common; the rest is each one's own.
IN_COMMON = (
    "base",
    "quantization",
    "train_together",
    "lora.target_modules",
    "training.micro_batch_tokens",
    "training.gradient_checkpointing",
)


class FinetuneTogether(Request):
    """A Finetune, with others that are trained along with it; these are stored by the process that
    trains, each as soon as it is done. What is made is what each Finetune alone would make, up to
    the rounding of sums."""

    kind: ClassVar[str] = Finetune.kind
    version: ClassVar[int] = Finetune.version
    oom_hint: ClassVar[str] = Finetune.oom_hint

    finetune: Finetune
    others: tuple[Finetune, ...]

    @classmethod
    def of(cls, finetune: Finetune, others: Iterable[Finetune]) -> FinetuneTogether:
        """With all of the others that may join it."""
        joining = [other for other in others if may_join(other, finetune)]
        unique = {other.key(): other for other in joining}
        unique.pop(finetune.key(), None)
        return cls(finetune=finetune, others=tuple(unique.values()))

    def key(self) -> str:
        return self.finetune.key()

    def build(self, into: Path) -> dict[str, Any]:
        requests = [self.finetune, *self.others]
        requests = requests[: _most(self.finetune)] if self.others else requests
        if len(requests) > 1:
            try:
                with deferred_signals() as stop_request, recorded_kernels() as kernels:
                    return _Group(requests, stop_request, kernels).train(into)
            except _AloneError as error:
                LOG.warning("%s trainings are not computed together: %s", len(requests), error)
            oom.release_memory()
        return self.finetune.build(into)


def may_join(other: Finetune, finetune: Finetune) -> bool:
    """Return whether both may be trained together, and the other one's rows are here and its
    adapter is not."""
    if not have_settings_in_common(other, finetune):
        return False
    corpus = other.corpus
    is_here = store().find(corpus.kind, corpus.key) == corpus
    return is_here and store().lookup(other) is None


def have_settings_in_common(one: Finetune, other: Finetune) -> bool:
    """Return whether the settings let both be trained together."""
    if largest_group(one) == 1 or one.tracked or other.tracked:
        return False  # trackers have one run a process
    return all(_value(one, name) == _value(other, name) for name in IN_COMMON)


def largest_group(request: Finetune) -> int:
    """Return how many trainings may be computed together by the settings, whatever the device."""
    together = request.train_together
    if together == "off":
        return 1
    return AUTO_MOST if together == "auto" else int(together)


def _value(request: Finetune, name: str) -> Any:
    value: Any = request
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _most(request: Finetune) -> int:
    """Return how many trainings like this one this machine computes together."""
    import torch

    from chatpipe.models.placement import this_device, trainings_that_fit

    has_gpu = torch.cuda.is_available()
    if (request.train_together == "auto" and not has_gpu) or processes.processes() > 1:
        return 1
    device = this_device(request.quantization)
    return trainings_that_fit(request.base.path, request, largest_group(request), device)


class _AloneError(Exception):
    """Why trainings do not share passes."""


class _Group:
    """Trainings that share passes; the first one's adapter is the product, the others are stored
    when they are done."""

    def __init__(
        self, requests: Sequence[Finetune], stop_request: StopRequest, kernels: KernelRecord
    ) -> None:
        self.requests = requests
        self.stop_request = stop_request
        self.kernels = kernels
        self.started = time.monotonic()

    def train(self, into: Path) -> dict[str, Any]:
        """Train all; return the first one's details, or raise its error."""
        try:
            first, *others = self._turns(into)
        except _AloneError:
            raise
        except Exception as error:
            raise _AloneError(f"{type(error).__name__}: {error}") from error
        for turn, request in zip(others, self.requests[1:], strict=True):
            if turn.error is not None and not isinstance(turn.error, StoppedError):
                LOG.warning("the adapter %s is tried alone: %s", request.key(), turn.error)
        for turn in (first, *others):
            if isinstance(turn.error, StoppedError):
                raise turn.error
        if isinstance(first.error, ChatpipeError):
            raise first.error
        if first.error is not None:
            raise _AloneError(f"{type(first.error).__name__}: {first.error}")
        return dict(first.result)

    def _turns(self, into: Path) -> list[Turn[Any, Any]]:
        from chatpipe.packing.batching import batching_for
        from chatpipe.training.group import Member, SharedPasses, group_fault, with_shared_weights

        request = self.requests[0]
        batch = _largest_pass(self.requests)
        base = _base(request, batch)
        model = with_new_adapter(with_shared_weights(base), request, batch.checkpoint_every)
        batching = batching_for(model)
        if fault := group_fault(model, batching):
            raise _AloneError(fault)
        passes = SharedPasses(base, model, batching, batch)
        del model
        before = (time.monotonic() - self.started) / len(self.requests)

        def training(place: int, turn: Turn[Any, Any]) -> Any:
            turn.charge(before)
            size, is_first = len(self.requests), place == 0
            member = Member(passes, turn, self.stop_request, size, is_first)
            request = self.requests[place]
            if is_first:
                return self._trained(request, member, into)
            return store().get_or_build(
                request, partial(self._trained, request, member), wait=False
            )

        return passes.run([partial(training, place) for place in range(len(self.requests))])

    def _trained(self, request: Finetune, member: Member, into: Path) -> dict[str, Any]:
        return request.train(into, member) | self.kernels.details()


def _largest_pass(requests: Sequence[Finetune]) -> Batch:
    """Return the largest pass of trainings together: where it is left to the memory model, as many
    tokens as a GPU has room for beside the adapters."""
    from chatpipe.models.memory import trained_weight_bytes
    from chatpipe.models.passes import StepRows, largest_pass
    from chatpipe.models.placement import known_shapes, plain_pass, this_device

    request, count = requests[0], len(requests)
    device = this_device(request.quantization)
    shapes = known_shapes(request.base.path, request.lora)
    if device.kind == "cpu" or shapes is None or device.free_bytes is None:
        batch = plain_pass(request.training)
    else:
        others = (count - 1) * shapes.lora_parameters * trained_weight_bytes(device)
        left = device.model_copy(update={"free_bytes": round(device.free_bytes - others)})
        rows = sum(one.training.global_batch_size for one in requests)
        longest = max(one.training.max_length for one in requests)
        batch = largest_pass(shapes, request, StepRows(rows, longest, 1.0), left)
    return batch.model_copy(update={"adapters": count})


def _base(request: Finetune, batch: Batch) -> Any:
    """Return the base that all passes go through."""
    from chatpipe.models.checkpointing import checkpoint_layers
    from chatpipe.models.loading import load_fast_base
    from chatpipe.models.placement import this_device, trains_dequantized

    path, quantization = request.base.path, request.quantization
    gpu_has_room = trains_dequantized(path, request, batch, this_device(quantization))
    base = load_fast_base(path, quantization, gpu_has_room)
    if batch.checkpoint_every:
        is_required = request.training.gradient_checkpointing is True
        checkpoint_layers(base, batch.checkpoint_every, is_required)
    return base

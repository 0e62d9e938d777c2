"""Several trainings of one base in one process. Each keeps its rows, their order, its optimizer,
schedule, random numbers, checkpoints and artifact; only the passes through the base are shared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from chatpipe.errors import ChatpipeError, StoppedError
from chatpipe.kernels.switch import KernelRecord, recorded_kernels
from chatpipe.runtime import oom
from chatpipe.runtime.stopping import StopRequest, deferred_signals
from chatpipe.store.artifact import Request
from chatpipe.store.store import store
from chatpipe.training.finetune import Finetune, with_new_adapter
from chatpipe.training.grouping import have_settings_in_common, trainings_at_once
from chatpipe.training.rows import encode_training_rows, rows_of_a_step

if TYPE_CHECKING:
    from chatpipe.models.memory import Batch
    from chatpipe.models.passes import StepRows
    from chatpipe.training.group import Member, SharedPasses
    from chatpipe.training.turns import Turn

LOG = logging.getLogger(__name__)
STOPPED = "training was stopped; run the same command again to go on."


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
                with recorded_kernels() as kernels:
                    return _Group(requests, kernels).train(into)
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


def _most(request: Finetune) -> int:
    """Return how many trainings like this one this machine computes together."""
    from chatpipe.models.placement import shapes_for_training, this_device

    shapes = shapes_for_training(request.base.path, request.lora)
    return trainings_at_once(request, shapes, this_device(request.quantization))


class _AloneError(Exception):
    """Why trainings do not share passes."""


class _Group:
    """Trainings that share passes; the first one's adapter is the product, the others are stored
    when they are done."""

    def __init__(self, requests: Sequence[Finetune], kernels: KernelRecord) -> None:
        self.requests = requests
        self.kernels = kernels
        self.started = time.monotonic()
        self.is_stopped = False

    def train(self, into: Path) -> dict[str, Any]:
        """Train all; return the first one's details, or raise its error."""
        try:
            passes = self._passes()
            # Until now a signal ends the process: there is nothing to save.
            with deferred_signals() as stop_request:
                try:
                    first, *others = self._turns(passes, stop_request, into)
                finally:
                    self.is_stopped = bool(stop_request)
        except _AloneError:
            raise
        except Exception as error:
            self._raise_if_stopped()
            raise _AloneError(f"{type(error).__name__}: {error}") from error
        for turn, request in zip(others, self.requests[1:], strict=True):
            if turn.error is not None and not isinstance(turn.error, StoppedError):
                LOG.warning("the adapter %s is tried alone: %s", request.key(), turn.error)
        for turn in (first, *others):
            if isinstance(turn.error, StoppedError):
                raise turn.error
        self._raise_if_stopped()
        if isinstance(first.error, ChatpipeError):
            raise first.error
        if first.error is not None:
            raise _AloneError(f"{type(first.error).__name__}: {first.error}")
        return dict(first.result)

    def _raise_if_stopped(self) -> None:
        """Raise StoppedError if a signal came when no training could look at it any more: what is
        not stored is finished from its checkpoint."""
        if self.is_stopped:
            raise StoppedError(STOPPED)

    def _passes(self) -> SharedPasses:
        """Load the base; return the passes through it that all trainings share."""
        from chatpipe.packing.batching import batching_for
        from chatpipe.training.group import SharedPasses, group_fault, with_shared_weights

        request = self.requests[0]
        batch = _largest_pass(self.requests)
        base = _base(request, batch)
        model = with_new_adapter(with_shared_weights(base), request, batch.checkpoint_every)
        batching = batching_for(model)
        if fault := group_fault(model, batching):
            raise _AloneError(fault)
        return SharedPasses(base, model, batching, batch)

    def _turns(
        self, passes: SharedPasses, stop_request: StopRequest, into: Path
    ) -> list[Turn[Any, Any]]:
        from chatpipe.training.group import Member

        before = (time.monotonic() - self.started) / len(self.requests)

        def training(place: int, turn: Turn[Any, Any]) -> Any:
            if stop_request:  # before its rows are read, which may take long
                raise StoppedError(STOPPED)
            turn.charge(before)
            size, is_first = len(self.requests), place == 0
            member = Member(passes, turn, stop_request, size, is_first)
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
    tokens as a GPU has room for beside all adapters."""
    from chatpipe.models.passes import StepRows, largest_pass
    from chatpipe.models.placement import shapes_for_training, this_device

    request = requests[0]
    shapes = shapes_for_training(request.base.path, request.lora)
    rows = StepRows.together([_step_rows(one) for one in requests])
    return largest_pass(shapes, request, rows, this_device(request.quantization))


def _step_rows(request: Finetune) -> StepRows:
    """Return what passes depend on of a training's rows; an upper bound of those that cannot be
    used, whose training will say why."""
    from chatpipe.models.loading import load_tokenizer
    from chatpipe.models.passes import StepRows

    training = request.training
    with suppress(ChatpipeError):
        tokenizer = load_tokenizer(request.base.path)
        template = request.prompt_template
        rows = encode_training_rows(request.corpus, template, training, tokenizer)
        return rows_of_a_step(training, rows)
    return StepRows(training.global_batch_size, training.max_length, 1.0)


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

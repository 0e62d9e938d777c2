"""One step on several devices: every process has the base, and computes a part of the step.

A base that one device has no room for is left to one process, which streams it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from chatpipe.config.schema import Quantization
from chatpipe.models import inference
from chatpipe.models.devices import device_name
from chatpipe.models.streaming import is_streamed
from chatpipe.runtime.helpers import Helper, available_helpers, discard, started
from chatpipe.runtime.processes import processes, thread_variables
from chatpipe.store.artifact import Artifact, Request

LOG = logging.getLogger(__name__)


class LoadedBase(NamedTuple):
    """What a process has loaded. Two that have the same compute the same numbers.

    Attributes:
        device: Its name; GPUs of different kinds round differently.
        dequantized: Whether a 4-bit base was dequantized once.
        streamed: Whether its layers are in main memory, because the device has no room.
    """

    device: str
    dequantized: bool
    streamed: bool

    @classmethod
    def of(cls, model: Any) -> LoadedBase:
        """Return it of that model, with an adapter or without."""
        return cls(device_name(), bool(getattr(model, "is_dequantized", False)), is_streamed(model))


class LoadBase(Request):
    """A base for the parts of steps that come, loaded where the device has room for it."""

    kind: ClassVar[str] = "base"
    version: ClassVar[int] = 1

    base: Artifact
    quantization: Quantization

    def build(self, into: Path) -> dict[str, Any]:
        model = inference.load_ahead(self.base.path, self.quantization)
        if model is None:
            return LoadedBase(device_name(), dequantized=False, streamed=True)._asdict()
        return LoadedBase.of(model)._asdict()


class Loading:
    """A base that helpers are loading while this process does. Those that still load it when the
    block ends are ended: this process has failed, and nobody waits for them."""

    def __init__(self, request: LoadBase, most: int) -> None:
        self._futures = started(
            dict.fromkeys(available_helpers(most), request), lambda _: lambda _: None
        )

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self._futures:
            if helper.is_building():
                discard(helper)

    @property
    def count(self) -> int:
        """How many helpers load it."""
        return len(self._futures)

    def ready(self, model: Any) -> list[Helper]:
        """Wait for them; return those that have what this process has as that model. Of the others
        is warned."""
        own = LoadedBase.of(model)
        alike = []
        for helper, future in self._futures.items():
            reason = _unlike(own, helper, future)
            helper.print_lines()
            if reason is None:
                alike.append(helper)
            elif not own.streamed:
                LOG.warning("%s is not used: %s", helper.device, reason)
        return alike


def _unlike(own: LoadedBase, helper: Helper, future: Future[Any]) -> str | None:
    """Return why a helper cannot take part; None where it has what this process has."""
    try:
        loaded = LoadedBase(**future.result())
    except Exception as error:
        return str(error)
    if loaded.streamed or own.streamed:
        return "it has no room for the base."
    if loaded.device != own.device:
        return f"it is another device ({loaded.device}) than this one ({own.device})."
    return None if loaded == own else "it has other room for the base, and would round differently."


class ModelWithHelpers(NamedTuple):
    """A model with what a manifest says of it, and the helpers that have its base, too."""

    model: Any
    details: dict[str, Any]
    helpers: list[Helper]


@contextmanager
def recorded_model_with_helpers(
    base: Artifact, adapters: Sequence[Artifact], quantization: Quantization, batches: int
) -> Iterator[ModelWithHelpers]:
    """As `inference.recorded_model`, with helpers for so many batches, as far as there are devices
    that have room for the base. On a CPU the processes share its cores while this lasts."""
    others = min(processes(), batches) - 1
    with (
        Loading(LoadBase(base=base, quantization=quantization), others) as loading,
        ExitStack() as shared,
    ):
        if loading.count:
            shared.enter_context(_shared_cores())
        with inference.recorded_model(base, adapters, quantization) as (model, details):
            helpers = loading.ready(model)
            if not helpers:
                shared.close()  # all cores are this process's
            details |= {"device": device_name(), "processes": 1 + len(helpers)}
            yield ModelWithHelpers(model, details, helpers)


@contextmanager
def _shared_cores() -> Iterator[None]:
    """Compute with this process's share of the cores, where there is no GPU."""
    cores = torch.get_num_threads()
    variables = {} if torch.cuda.is_available() else thread_variables(processes())
    torch.set_num_threads(int(variables.get("OMP_NUM_THREADS", cores)))
    try:
        yield
    finally:
        torch.set_num_threads(cores)

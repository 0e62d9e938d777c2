"""Models as scoring and generation use them: a base kept in memory, with its adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from chatpipe.config.schema import Quantization
from chatpipe.kernels.dequantize import is_quantized, note_dequantized
from chatpipe.kernels.switch import recorded_kernels
from chatpipe.models.devices import device
from chatpipe.models.loading import LOG, load_fast_base, load_streamed_base
from chatpipe.store.artifact import Artifact


def _load_for_inference(path: Path, quantization: Quantization) -> Any:
    """As load_fast_base, but a base that is too large for the GPU stays in main memory."""
    if _lacks_room(path, quantization):
        LOG.warning(
            "the GPU has no room for this base: its layers stay in main memory and are "
            "fetched for every pass, which is slow."
        )
        return load_streamed_base(path, quantization)
    return _load_whole(path, quantization)


def _load_whole(path: Path, quantization: Quantization) -> Any:
    if not torch.cuda.is_available():
        return load_fast_base(path, quantization)
    from chatpipe.models.placement import infers_dequantized, this_device

    gpu = this_device(quantization)
    return load_fast_base(path, quantization, infers_dequantized(path, quantization, gpu))


def _lacks_room(path: Path, quantization: Quantization) -> bool:
    """Whether a base is too large for this process's GPU."""
    if not torch.cuda.is_available():
        return False
    from chatpipe.models.placement import needs_cpu_offload, this_device

    return needs_cpu_offload(path, quantization, this_device(quantization))


def load_model(base: Path, adapter: Path | None, quantization: Quantization) -> Any:
    """The base, with the adapter on it where there is one, ready for inference."""
    adapters = {adapter.name: adapter} if adapter else {}
    return _with_adapters(_load_for_inference(base, quantization), adapters)


@contextmanager
def cached_model(base: Path, adapters: Sequence[Path], quantization: Quantization) -> Iterator[Any]:
    """As load_model, on a base that this process keeps for the next models of the same base. Each
    adapter has its directory's name; the first one is on.

    They are taken off again afterwards, so no model leaves a trace in another's figures.
    """
    kept = _cached_base(base, quantization)
    note_dequantized(kept)
    try:
        model = _with_adapters(kept, {path.name: path for path in adapters})
    except BaseException:
        _BASE_CACHE.clear()  # an adapter may be on it
        raise
    try:
        yield model
    finally:
        if model is not kept:
            model.unload()


@contextmanager
def recorded_model(
    base: Artifact, adapters: Sequence[Artifact], quantization: Quantization
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """As cached_model, with what a manifest says of it: whether the base is streamed and, after the
    block, the kernels that ran in it."""
    from chatpipe.models.streaming import is_streamed

    details: dict[str, Any] = {}
    paths = [adapter.path for adapter in adapters]
    with recorded_kernels() as kernels, cached_model(base.path, paths, quantization) as model:
        details["base_streamed"] = is_streamed(model)
        yield model, details
    details |= kernels.details()


_BASE_CACHE: dict[tuple[Path, Quantization], Any] = {}


def _cached_base(path: Path, quantization: Quantization) -> Any:
    if (path, quantization) not in _BASE_CACHE:
        _BASE_CACHE.clear()  # first: two bases need not fit into memory together
        model = _load_for_inference(path, quantization)
        if not torch.cuda.is_available() and is_quantized(model):
            return model  # its constants are rounded at every move: not to be used twice
        _BASE_CACHE[path, quantization] = model
    return _BASE_CACHE[path, quantization]


def load_ahead(path: Path, quantization: Quantization) -> Any:
    """Load a base for the models to come, and return it; None where the GPU has no room for it."""
    if (path, quantization) not in _BASE_CACHE:
        _BASE_CACHE.clear()
        if _lacks_room(path, quantization):
            return None
    return _cached_base(path, quantization)


def _with_adapters(model: Any, adapters: Mapping[str, Path]) -> Any:
    if not adapters:
        return model
    from peft import PeftModel

    from chatpipe.models.sharding import bring

    (first, path), *others = adapters.items()
    adapted = PeftModel.from_pretrained(model, path, adapter_name=first)
    for name, path in others:
        adapted.load_adapter(path, adapter_name=name)
    bring(adapted, device())  # peft puts it where the base's weights are, if only to be fetched
    return adapted.eval()

"""Whether a training fits the devices that there are, whether its base must be shared out, and
whether there is room to keep a 4-bit base dequantized."""

from __future__ import annotations

from pathlib import Path

from chatpipe.config.schema import Lora, Quantization, Training
from chatpipe.errors import ModelError
from chatpipe.kernels.switch import is_enabled
from chatpipe.models.memory import (
    Batch,
    Device,
    MemoryEstimate,
    Settings,
    base_bytes,
    dequantized_bytes,
    estimate,
)
from chatpipe.models.shapes import Shapes, shapes_of
from chatpipe.runtime import processes

BESIDE = 1.25  # how much of a GPU scoring and answering take, for every byte of the base
# Of a GPU's free memory, for a training that could also keep its base in 4 bits: the estimate was
# never compared with a GPU, and a training that does not fit is lost.
DEQUANTIZED_SHARE = 0.85
TOGETHER_SHARE = 0.85  # the same, for trainings that could also run one after another
CPU_TOKENS = 2048  # measured; also of trainings that share passes
BESIDE_DEQUANTIZED = 2.0  # the same, for a base that is dequantized only where there is room


def this_device(quantization: Quantization) -> Device:
    """Where this process would train: its GPU, or its processors."""
    import gc

    import torch

    from chatpipe.models import devices

    cuda = torch.cuda.is_available()
    if cuda:
        # A base that is no longer used is in reference cycles, then in torch's cache.
        gc.collect()
        torch.cuda.empty_cache()
    dtype = devices.compute_dtype(quantization)
    return Device(
        kind="cuda" if cuda else "cpu",
        name=devices.device_name(),
        compute_bytes=dtype.itemsize,
        is_float16=dtype is torch.float16,
        free_bytes=devices.free_memory_bytes(),
        count=processes.processes(),
    )


def plain_tokens(training: Training) -> int:
    """Return the tokens of a pass where nothing is known of memory."""
    tokens = training.micro_batch_tokens
    return tokens if isinstance(tokens, int) else CPU_TOKENS


def plain_pass(training: Training) -> Batch:
    """Return the pass where nothing is known of memory and rows."""
    tokens = plain_tokens(training)
    every = int(training.gradient_checkpointing is True)
    return Batch(tokens=tokens, scored=tokens, checkpoint_every=every)


def needs_cpu_offload(base: Path, quantization: Quantization, device: Device) -> bool:
    """Whether a 4-bit base is too large for one GPU even where nothing is trained, or (with
    $CHATPIPE_SHARDING) is to be handled so."""
    if quantization.method != "nf4" or device.free_bytes is None:
        return False
    shapes = _inference_shapes(base)
    needed = BESIDE * base_bytes(shapes, quantization, device) if shapes else 0
    return needs_sharding(device.kind == "cuda" and needed > device.free_bytes)


def _inference_shapes(base: Path) -> Shapes | None:
    """As known_shapes, without an adapter; None, too, for a base of which no model can be built
    from its configuration: it may be loaded all the same."""
    try:
        return known_shapes(base, Lora())
    except ModelError:
        return None


def known_shapes(base: Path, lora: Lora) -> Shapes | None:
    """The base's shapes; None for an architecture that names its sizes in a way of its own."""
    try:
        return shapes_of(base, lora)
    except AttributeError:
        return None


def shapes_for_training(base: Path, lora: Lora) -> Shapes | None:
    """As known_shapes; None, too, for a base of which no model can be built from its configuration:
    it may be loaded all the same."""
    try:
        return known_shapes(base, lora)
    except (ModelError, ValueError):
        return None


def uses_sharding(base: Path, settings: Settings, batch: Batch, device: Device) -> bool:
    """Whether each of several devices is to hold a share of the base."""
    if not may_share(settings, device):
        return False
    shapes = known_shapes(base, settings.lora)
    return (
        needs_sharding(False) if shapes is None else fit(shapes, settings, batch, device).shares > 1
    )


def fit(shapes: Shapes, settings: Settings, batch: Batch, device: Device) -> MemoryEstimate:
    """The peak with the whole base on every device, 4-bit weights dequantized where a GPU has room
    for that; or, where it is 4-bit and $CHATPIPE_SHARDING or the memory of several GPUs asks for
    it, with a share of it on each."""
    whole = estimate(shapes, settings, batch, device)
    lacking = (
        device.kind == "cuda" and device.free_bytes is not None and whole.total > device.free_bytes
    )
    if may_share(settings, device) and needs_sharding(lacking):
        return estimate(shapes, settings, batch, device, device.count)
    if may_dequantize(settings.quantization, device):
        larger = estimate(shapes, settings, batch, device, dequantized=True)
        if larger.total <= DEQUANTIZED_SHARE * (device.free_bytes or 0):
            return larger
    return whole


def trains_dequantized(base: Path, settings: Settings, batch: Batch, device: Device) -> bool:
    """Whether a GPU keeps a 4-bit base dequantized while it is trained on that batch."""
    if not may_dequantize(settings.quantization, device):
        return False
    shapes = known_shapes(base, settings.lora)
    return shapes is not None and fit(shapes, settings, batch, device).dequantized


def trainings_that_fit(shapes: Shapes | None, settings: Settings, most: int, device: Device) -> int:
    """Return how many trainings like this one, up to `most`, the device has room for at once: each
    has an adapter and its optimizer's state, and all share the base and the passes through it."""
    if shapes is None or device.free_bytes is None:
        return most
    batch = plain_pass(settings.training)
    for count in range(most, 1, -1):
        batch = batch.model_copy(update={"adapters": count})
        if estimate(shapes, settings, batch, device).total <= TOGETHER_SHARE * device.free_bytes:
            return count
    return 1


def infers_dequantized(base: Path, quantization: Quantization, device: Device) -> bool:
    """Whether a GPU keeps a 4-bit base dequantized where nothing is trained."""
    if not may_dequantize(quantization, device):
        return False
    shapes = _inference_shapes(base)
    needed = BESIDE_DEQUANTIZED * dequantized_bytes(shapes, device) if shapes else 0
    return 0 < needed <= (device.free_bytes or 0)


def may_dequantize(quantization: Quantization, device: Device) -> bool:
    """Whether a GPU keeps a 4-bit base dequantized if it has room for that."""
    return device.kind == "cuda" and quantization.method == "nf4" and is_enabled("dequantize")


def may_share(settings: Settings, device: Device) -> bool:
    """Whether each of several devices can hold a share of the base."""
    return device.count > 1 and settings.quantization.method == "nf4"


def needs_sharding(lacking: bool) -> bool:
    """Whether a base is shared or streamed, which lacks memory or does not."""
    return {"auto": lacking, "always": True, "never": False}[processes.sharding()]

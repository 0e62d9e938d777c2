"""The memory model of training: bytes, from shapes and settings alone.

docs/memory.md derives every term, and says how far the sum is from measured peaks.
"""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, computed_field

from chatpipe.config.schema import Lora, Quantization, Training
from chatpipe.kernels.switch import is_enabled
from chatpipe.models.shapes import Shapes

FLOAT32 = 4
PLACE = 8  # an index
# bitsandbytes NF4: 4 bits a weight, and a constant for every block of 64 weights: float32, or
# (double quantization) 8 bits with a float32 for every 256 constants.
NF4_WEIGHT = 0.5
NF4_CONSTANT = FLOAT32 / 64
NF4_CONSTANT_DOUBLE = 1 / 64 + FLOAT32 / (64 * 256)
# Weight, gradient and Adam's two moments, all float32.
ADAM = 4 * FLOAT32
# What a process holds before it has a model: a CUDA context with its libraries' workspaces, or
# (in main memory) the imported libraries.
CONSTANT = {"cuda": 600 * 2**20, "cpu": 600 * 2**20}
# What the allocator holds beside what is alive, as a share of activations and logits, whose
# sizes change from batch to batch: measured of glibc's malloc, assumed of CUDA's.
ALLOCATOR = {"cuda": 0.1, "cpu": 1.35}
# Layers of a shared base that are whole at once: one is computed, the next one is fetched, and
# the allocator holds what was copied out of the one before.
GATHERED = 3

ACTIVATIONS = "activations"
LOGITS_PART = "logits and their gradient"
LOGITS_OR_LAYER = "logits, or a layer again"
ALLOCATED = "held by the allocator"
OF_THE_BATCH = frozenset({ACTIVATIONS, LOGITS_PART, LOGITS_OR_LAYER, ALLOCATED})


class Device(BaseModel):
    """Where training would run."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["cuda", "cpu"]
    name: str
    compute_bytes: int  # of one element in matrix products: 2 or 4
    free_bytes: int | None = None
    count: int = 1  # of such devices, which train together
    is_float16: bool = False  # products are in float16, whose logits autocast copies to float32


class Settings(Protocol):
    """What of a variant, or of a request for its adapter, memory depends on."""

    @property
    def quantization(self) -> Quantization: ...
    @property
    def lora(self) -> Lora: ...
    @property
    def training(self) -> Training: ...


class Batch(BaseModel):
    """What is computed at the same time, in one batch or in several: its tokens, padding included,
    and how many are scored. Tokens that rows share are counted for each of them, so an estimate is
    an upper bound. Every `checkpoint_every`-th layer computes its activations again; 0: none.
    adapters: how many are trained on it together."""

    model_config = ConfigDict(frozen=True)

    tokens: int
    scored: int
    checkpoint_every: int = 0
    adapters: int = 1

    def checkpointed_layers(self, layers: int) -> int:
        """Return how many of so many layers compute their activations again."""
        return -(-layers // self.checkpoint_every) if self.checkpoint_every else 0


class MemoryEstimate(BaseModel):
    """The peak while the batch is trained on, in bytes; `parts` add up to the total. Each of
    `shares` devices holds a share of the base's layers."""

    model_config = ConfigDict(frozen=True)

    batch: Batch
    shares: int = 1
    dequantized: bool = False  # a 4-bit base's weights are kept in the type of the products
    parts: dict[str, int]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def fixed(self) -> int:
        """What no shorter or smaller batch would spare."""
        return sum(size for name, size in self.parts.items() if name not in OF_THE_BATCH)


def estimate(
    shapes: Shapes,
    settings: Settings,
    batch: Batch,
    device: Device,
    shares: int = 1,
    dequantized: bool = False,
) -> MemoryEstimate:
    """The peak of training on that batch, the base's layers shared among so many devices, or each
    kept dequantized (as always on a CPU: kernels/dequantize.py)."""
    other = shapes.parameters - shapes.linear_parameters
    activations = activation_bytes(shapes, settings, batch, device, shares)
    logits = logits_bytes(shapes, batch, device)
    if batch.checkpoint_every:
        # A layer is computed again when the logits' gradient is gone.
        logits = max(logits, batch.tokens * layer_bytes(shapes, settings, device, shares))
    parts = {
        **_linear_layers(shapes, settings.quantization, device, shares, dequantized),
        "embeddings and norms": other * device.compute_bytes,
        "adapter, gradients, Adam": batch.adapters
        * shapes.lora_parameters
        * trained_weight_bytes(device),
        ACTIVATIONS: activations,
        LOGITS_OR_LAYER if batch.checkpoint_every else LOGITS_PART: logits,
        "one weight dequantized": shapes.largest_linear * device.compute_bytes,
        ALLOCATED: ALLOCATOR[device.kind] * (activations + logits),
        "CUDA context" if device.kind == "cuda" else "libraries": CONSTANT[device.kind],
    }
    whole = {name: round(size) for name, size in parts.items()}
    return MemoryEstimate(batch=batch, shares=shares, dequantized=dequantized, parts=whole)


def _linear_layers(
    shapes: Shapes, quantization: Quantization, device: Device, shares: int, dequantized: bool
) -> dict[str, float]:
    """The linear layers on one device."""
    linear = shapes.linear_parameters * weight_bytes(quantization, device)
    if shares > 1:
        gathered = linear * GATHERED / shapes.layers
        return {"linear layers, a share": linear / shares, "layers gathered": gathered}
    if device.kind == "cpu" or dequantized:
        linear = dequantized_bytes(shapes, device)
    return {"linear layers": linear}


def base_bytes(shapes: Shapes, quantization: Quantization, device: Device) -> float:
    """A whole base in inference."""
    other = shapes.parameters - shapes.linear_parameters
    linear = shapes.linear_parameters * weight_bytes(quantization, device)
    return linear + other * device.compute_bytes


def dequantized_bytes(shapes: Shapes, device: Device) -> float:
    """The linear layers in the type of the products."""
    return float(shapes.linear_parameters * device.compute_bytes)


def weight_bytes(quantization: Quantization, device: Device) -> float:
    """Bytes of one weight of a linear layer, its share of the constants included."""
    if quantization.method == "none":
        return float(device.compute_bytes)
    return NF4_WEIGHT + (NF4_CONSTANT_DOUBLE if quantization.double else NF4_CONSTANT)


def activation_bytes(
    shapes: Shapes, settings: Settings, batch: Batch, device: Device, shares: int = 1
) -> float:
    """What the layers leave for the backward pass: all of it, or (with gradient checkpointing)
    only a layer's input."""
    checkpointed = batch.checkpointed_layers(shapes.layers)
    inputs = checkpointed * shapes.hidden * device.compute_bytes
    whole = (shapes.layers - checkpointed) * layer_bytes(shapes, settings, device, shares)
    return batch.tokens * (inputs + whole)


def logits_bytes(shapes: Shapes, batch: Batch, device: Device) -> float:
    """Return the bytes of the logits and their gradient.

    Packed: the scored tokens' logits, which their gradient overwrites. Padded: the model's own
    forward pass computes logits of all tokens, and the backward pass holds two gradients of that
    size, with and without the last token of the rows. Both: the probabilities of a few tokens.
    In float16 the Trainer's autocast copies the logits to float32, and both are held.
    """
    from chatpipe.kernels.cross_entropy import tokens_at_once

    tokens = 2 * batch.tokens if is_padded(shapes) else batch.scored
    at_once = min(batch.scored, tokens_at_once(shapes.vocabulary, device.kind)) * FLOAT32
    element = device.compute_bytes + (FLOAT32 if device.is_float16 else 0)
    return float(shapes.vocabulary * (tokens * element + at_once))


def is_padded(shapes: Shapes) -> bool:
    """Return whether rows are padded instead of packed, as far as the configuration tells."""
    return shapes.packing_fault is not None or not is_enabled("packing")


def layer_bytes(shapes: Shapes, settings: Settings, device: Device, shares: int = 1) -> float:
    """What one layer leaves for the backward pass, a token; LLaMA's layer.

    - norms: two inputs and two inverse roots, in float32;
    - attention: queries, keys, values and its output, and the float32 log-sum of every head;
    - the gated product: the gate before and after its activation, and the other factor;
    - every group of adapted layers that reads one input (where a base is shared out, every
      layer): its input after dropout, the dropout's own mask; and the r products.
    """
    compute = device.compute_bytes
    norms = 2 * FLOAT32 * (shapes.hidden + 1)
    attention = _padded_attention_bytes if is_padded(shapes) else _attention_bytes
    gated = 3 * compute * shapes.intermediate
    inputs = shapes.lora_joined_inputs if shares == 1 else shapes.lora_inputs
    adapted = inputs * (compute + _dropout_bytes(settings.lora.dropout, device))
    ranks = shapes.lora_modules * settings.lora.rank * compute
    return norms + attention(shapes, device) + gated + (adapted + ranks) / shapes.layers


def _attention_bytes(shapes: Shapes, device: Device) -> float:
    """The attention of packed rows; on a CPU in float32 (packing/attention.py)."""
    elements = 2 * (shapes.attention + shapes.keys)
    element = FLOAT32 if device.kind == "cpu" else device.compute_bytes
    return float(element * elements + FLOAT32 * shapes.heads)


def _padded_attention_bytes(shapes: Shapes, device: Device) -> float:
    """torch's own attention, in the compute type."""
    elements = 2 * (shapes.attention + shapes.keys)
    return float(device.compute_bytes * elements + FLOAT32 * shapes.heads)


def training_flops(shapes: Shapes, checkpoint_every: int = 0) -> float:
    """Floating-point operations a token: 2 a weight forward, 2 backward (a frozen weight has no
    gradient of its own), and 2 for computing again with gradient checkpointing."""
    weights = shapes.linear_parameters + shapes.head_parameters + shapes.lora_parameters
    return weights * (4.0 + (2.0 / checkpoint_every if checkpoint_every else 0.0))


def _dropout_bytes(dropout: float, device: Device) -> float:
    """CUDA's dropout keeps a boolean, the CPU's (kernels/sparse_dropout.py) the dropped indices."""
    from chatpipe.kernels.sparse_dropout import places_per_element

    if dropout == 0:
        return 0.0
    return 1.0 if device.kind == "cuda" else PLACE * places_per_element(dropout)


def trained_weight_bytes(device: Device) -> int:
    """Under autocast every adapter weight has a copy in the compute type, and every gradient one
    where it is exchanged."""
    copy = device.compute_bytes if device.compute_bytes < FLOAT32 else 0
    return ADAM + copy + (FLOAT32 if device.count > 1 else 0)

"""Every kernel against the plain path, on this machine's device: a training step, scores and
answers of tiny models.

The bound is the plain path's own rounding: how far its numbers in the device's type are from those
in float32.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatpipe.config.schema import Generation, Lora, Quantization
from chatpipe.diagnosis.findings import Finding, fault, ok, warning
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.generation.batch import written_ids
from chatpipe.generation.row_request import RowRequest
from chatpipe.generation.running_batch import RunningBatch
from chatpipe.kernels import switched_off
from chatpipe.kernels.switch import (
    BY_DEFAULT,
    KERNELS,
    VARIABLE,
    enabled_kernels,
    recorded_kernels,
)
from chatpipe.models.devices import compute_dtype
from chatpipe.models.loading import load_fast_base
from chatpipe.models.lora import with_adapter
from chatpipe.packing.batching import batching_for
from chatpipe.packing.transfer import on_device
from chatpipe.runtime.oom import is_out_of_memory
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.trainer import BatchCollator, batch_training, max_training_threads

SHAPE = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
END = SHAPE["vocab_size"] - 1
TOKENS = 512  # of a pack; all rows are in one
NEW_TOKENS = 8
# What a kernel needs beside itself to be used. Kernels draw other dropout, so there is none.
WITH = {
    "varlen_attention": ("packing",),
    "concurrency": ("packing", "dequantize"),
    "packed_weights": ("dequantize",),
    "decoding": ("packing", "dequantize", "lora_inference"),
    "nf4_products": ("decoding", "packing", "dequantize", "lora_inference"),
}
FIGURES = ("scores", "gradients", "answers")
TIMES_ROUNDING = 2.0
LEAST_BOUND = 1e-3  # of float32, in which the plain path is compared with itself


@dataclass(frozen=True)
class Bases:
    """Directories of two random models: one with small weights, whose gradients are hardly
    rounded, and one with large weights, whose nats differ from row to row and whose answers are no
    near ties."""

    small: Path
    large: Path


@dataclass(frozen=True)
class Figures:
    """Of tiny models: nats of rows, the gradients of a step, the token ids of answers, and the
    kernels that ran."""

    nats: torch.Tensor
    gradients: torch.Tensor
    answers: list[list[int]]
    ran: frozenset[str]


def check_kernels() -> list[Finding]:
    """Compare every kernel with the plain path, but one that has to be named only where it is;
    switch off those that disagree, and switch on again those that do not."""
    used = BY_DEFAULT | enabled_kernels()
    with tempfile.TemporaryDirectory() as folder:
        bases = Bases(Path(folder, "small"), Path(folder, "large"))
        _write_base(bases.small, 0.03)
        _write_base(bases.large, 0.15)
        with _kernels("off"):
            exact = _figures(bases, "float32")
            plain = _figures(bases, "auto")
        bounds = [max(LEAST_BOUND, TIMES_ROUNDING * part) for part in _distances(plain, exact)]
        findings, wrong = [], {}
        for kernel in [name for name in KERNELS if name in used]:
            with _kernels(",".join((kernel, *WITH.get(kernel, ())))):
                finding = _compared(kernel, bases, plain, bounds)
            findings.append(finding)
            if finding.state == "fault":
                wrong[kernel] = finding.text
    switched_off.record(wrong)
    return findings


def _compared(kernel: str, bases: Bases, plain: Figures, bounds: Sequence[float]) -> Finding:
    name = f"kernel {kernel}"
    remedy = f"it is switched off on this machine; set {VARIABLE}={kernel} to use it all the same"
    try:
        figures = _figures(bases, "auto")
    except Exception as error:
        if is_out_of_memory(error):
            return warning(name, "not checked: the device is out of memory", "free some of it")
        return fault(name, f"fails: {type(error).__name__}: {str(error)[:200]}", remedy)
    if kernel not in figures.ran:
        return ok(name, "is not used on this device")
    distances = _distances(figures, plain)
    parts = [
        f"{what} {distance:.1e} (at most {bound:.1e})"
        for what, distance, bound in zip(FIGURES, distances, bounds, strict=True)
    ]
    text = f"distance from the plain path: {', '.join(parts)}"
    if all(distance <= bound for distance, bound in zip(distances, bounds, strict=True)):
        return ok(name, text)
    return fault(name, text, remedy)


def _distances(figures: Figures, others: Figures) -> list[float]:
    """The relative distances of nats and of gradients; and the share of the answers' first two
    tokens that differ, if more than one in four does: near ties are rounded either way."""
    pairs = [
        token == other
        for answer, expected in zip(figures.answers, others.answers, strict=True)
        for token, other in zip(answer[:2], expected[:2], strict=False)
    ]
    different = 1 - sum(pairs) / len(pairs)
    return [
        _relative(figures.nats, others.nats),
        _relative(figures.gradients, others.gradients),
        different if different > 1 / 4 else 0.0,
    ]


def _relative(some: torch.Tensor, others: torch.Tensor) -> float:
    return float((some - others).norm() / others.norm())


def _figures(bases: Bases, dtype: str) -> Figures:
    quantization = Quantization.model_validate({"compute_dtype": dtype})
    with recorded_kernels() as record:
        model = _adapted(bases.small, quantization)
        gradients = _gradients(model, quantization)
        model = _adapted(bases.large, quantization).eval()
        nats = torch.tensor(row_nats(model, _rows(), TOKENS))
        through = ["default", None] * 2
        stops, settings = frozenset([END]), Generation(max_new_tokens=NEW_TOKENS)
        requests = [
            RowRequest(place, row.input_ids[:12], adapter, stops, settings)
            for place, (row, adapter) in enumerate(zip(_rows(), through, strict=False))
        ]
        answers = written_ids(model, requests) + _running_answers(model, requests)
    return Figures(nats, gradients, answers, frozenset(record.ran))


def _adapted(base: Path, quantization: Quantization) -> Any:
    """The base with a random adapter that changes its figures."""
    torch.manual_seed(0)
    gpu_has_room = torch.cuda.is_available() and "dequantize" in os.environ[VARIABLE]
    loaded = load_fast_base(base, quantization, gpu_has_room)
    model = with_adapter(loaded, Lora(rank=8, dropout=0.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def _running_answers(model: Any, requests: Sequence[RowRequest]) -> list[list[int]]:
    """The new ids of each row, as a server or a conversation writes them."""
    rows = RunningBatch(model)
    rows.join(requests)
    answers: dict[Any, list[int]] = defaultdict(list)
    while len(rows):
        for new in rows.step():
            answers[new.row].append(new.token)
    return [answers[request.id] for request in requests]


def _gradients(model: Any, quantization: Quantization) -> torch.Tensor:
    """The gradients of all adapter weights in one row."""
    batching = batching_for(model)
    device = next(model.parameters()).device
    half = compute_dtype(quantization) in (torch.bfloat16, torch.float16)
    model.train()
    threads = max_training_threads(model, 1, batching)
    batches = BatchCollator(TOKENS, threads, batching)([[row] for row in _rows()])["batches"]
    autocast = torch.autocast(device.type, compute_dtype(quantization), enabled=half)
    with batch_training(model, batching):
        for batch in batches:
            with autocast:
                nats = batching.nats(model, on_device(batch, device)).sum()
            nats.backward()  # type: ignore[no-untyped-call]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.cat([weight.grad.float().cpu().flatten() for weight in trained])


def _rows() -> Sequence[TokenizedRow]:
    """Rows that begin alike, of which the end is scored."""
    generator = torch.Generator().manual_seed(2)
    begin = torch.randint(5, 500, (24,), generator=generator).tolist()
    rows = []
    for number, length in enumerate((40, 9, 31, 60)):
        ids = begin + torch.randint(5, 500, (length,), generator=generator).tolist()
        rows.append(TokenizedRow(ids, [*[IGNORED] * 20, *ids[20:]], number))
    return rows


def _write_base(path: Path, spread: float) -> None:
    """Save a random model. spread: the standard deviation of its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE, num_attention_heads=4, num_key_value_heads=2, initializer_range=spread
    )
    LlamaForCausalLM(config).save_pretrained(path)


@contextmanager
def _kernels(value: str) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before

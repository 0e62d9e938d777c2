"""What an optimizer step of LLaMA 7B costs on a GPU: kernels, bytes, operations, waits of the host,
counted on fake tensors; and the tokens a second that follow by a roofline.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from transformers import TrainingArguments

from benchmarks.random_base import config_of, on_device
from chatpipe.config.schema import Lora, Quantization, Training
from chatpipe.models.checkpointing import checkpoint_layers
from chatpipe.models.lora import with_adapter
from chatpipe.models.memory import (
    ALLOCATED,
    FLOAT32,
    OF_THE_BATCH,
    Batch,
    Device,
    estimate,
    trained_weight_bytes,
)
from chatpipe.models.shapes import shapes_of_config
from chatpipe.packing.batching import Batching, batching_for
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.trainer import AdapterTrainer, BatchCollator, batch_training
from tests.gpu.watch import Call, Watch

LAYERS = 32
VOCABULARY = 32_000
TOKENS = 2048  # of a step, which is one pack
# Steps of 16 rows of about the length of Alpaca's, or of one long one; half of each is scored. A
# base that was dequantized once is computed as one that is not quantized.
PLAIN = Quantization(method="none")


class Case(NamedTuple):
    """A step's rows and their length; every so many layers, one is computed again (0: none)."""

    rows: int
    length: int
    quantization: Quantization
    checkpoint_every: int = 0


CASES = {
    "16 rows of 128 tokens, NF4": Case(16, 128, Quantization()),
    "16 rows of 128 tokens, dequantized once": Case(16, 128, PLAIN),
    "1 row of 2,048 tokens, dequantized once": Case(1, 2048, PLAIN),
    "16 rows of 128 tokens, dequantized once, all layers computed again": Case(16, 128, PLAIN, 1),
}
LAUNCH_S = 5e-6  # what torch needs, about, to launch a kernel
MATRIX_SHARE, MEMORY_SHARE = 0.7, 0.8  # of its data sheet's peak that a kernel reaches


@dataclass(frozen=True)
class Gpu:
    """Peaks of the data sheet: dense bfloat16 products in operations a second, bytes a second."""

    name: str
    flops: float
    bandwidth: float


GPUS = (
    Gpu("H100 SXM", 989e12, 3.35e12),
    Gpu("A100 80 GB", 312e12, 2.04e12),
    Gpu("RTX 4090", 165e12, 1.01e12),
)


@dataclass(frozen=True)
class StepCost:
    """The cost of one optimizer step of the whole model. held: the most memory that it takes beside
    the weights, in bytes."""

    calls: Mapping[Call, int]
    syncs: int
    tokens: int = TOKENS
    held: int = 0

    @property
    def kernels(self) -> int:
        return sum(self.calls.values())

    def gigabytes(self, *names: str) -> float:
        """Bytes that kernels of these names move, or all kernels."""
        chosen = (call for call in self.calls if not names or call.name in names)
        return sum(call.moved * self.calls[call] for call in chosen) / 1e9

    @property
    def teraflops(self) -> float:
        return sum(call.flops * count for call, count in self.calls.items()) / 1e12

    def tokens_per_s(self, gpu: Gpu) -> float:
        """Every kernel takes as long as its operations or its bytes, whichever is longer; a step
        at least as long as the host needs to launch its kernels."""
        seconds = sum(
            count
            * max(
                call.flops / (MATRIX_SHARE * gpu.flops),
                call.moved / (MEMORY_SHARE * gpu.bandwidth),
            )
            for call, count in self.calls.items()
        )
        return self.tokens / max(seconds, LAUNCH_S * self.kernels)


def step_costs(cases: Iterable[str] = tuple(CASES)) -> dict[str, StepCost]:
    """By the case; in the fake mode of this moment."""
    costs = {}
    for case in cases:
        chosen = CASES[case]
        trained = partial(
            trained_alone,
            rows_of(chosen.rows, chosen.length),
            checkpoint_every=chosen.checkpoint_every,
        )
        costs[case] = step_cost(trained, chosen.quantization)
    return costs


def step_cost(trained: Callable[[Any, int], Watch], quantization: Quantization) -> StepCost:
    """The cost of an optimizer step. trained: trains on a base for so many steps, and returns what
    was counted."""
    one, two = (_of_layers(layers, trained, quantization) for layers in (1, 2))
    syncs = _scaled(one.syncs, two.syncs)
    held = one.peak + (LAYERS - 1) * (two.peak - one.peak)
    return StepCost(_scaled(one.calls, two.calls), sum(syncs.values()), held=held)


def _scaled(one: Counter[Any], two: Counter[Any]) -> Counter[Any]:
    """Counts of all layers, from those of one layer and of two: each further layer adds as much."""
    return Counter({key: one[key] + (LAYERS - 1) * (two[key] - one[key]) for key in one | two})


def _of_layers(
    layers: int, trained: Callable[[Any, int], Watch], quantization: Quantization
) -> Watch:
    """What a step costs: the difference between a training of two steps and one of one step."""
    config = config_of("llama-7b", vocab_size=VOCABULARY, num_hidden_layers=layers)
    with Watch():
        bases = [on_device(config, quantization) for _ in range(2)]
    first, both = (trained(base, steps) for steps, base in enumerate(bases, 1))
    both.calls.subtract(first.calls)
    both.syncs.subtract(first.syncs)
    return both


def trained_alone(
    rows: list[TokenizedRow], base: Any, steps: int, checkpoint_every: int = 0
) -> Watch:
    """Train for so many steps, without a checkpoint; return what was counted."""
    with Watch():
        if checkpoint_every:
            checkpoint_layers(base, checkpoint_every)
        model = with_adapter(base, Lora())
        batching = batching_for(model)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, batching, rows, steps, folder)
        watch.leave_out(model.parameters())
        with batch_training(model, batching), watch:
            trainer.train()
    return watch


def trainer_of(
    model: Any, batching: Batching, rows: list[TokenizedRow], steps: int, folder: str
) -> AdapterTrainer:
    """A trainer that writes no checkpoint."""
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    return AdapterTrainer(
        model=model,
        args=arguments,
        train_dataset=[[row] for row in rows],
        data_collator=BatchCollator(TOKENS, 1, batching),
        global_batch_size=len(rows),
    )


def rows_of(count: int, length: int) -> list[TokenizedRow]:
    """Rows that begin differently, half of each scored."""
    return [_row(number, length) for number in range(count)]


def _row(number: int, length: int) -> TokenizedRow:
    ids = [(7 * number + place) % (VOCABULARY - 10) + 5 for place in range(length)]
    scored = length // 2
    return TokenizedRow(ids, [*[IGNORED] * scored, *ids[scored:]], number)


# --- the table of docs/gpu.md --------------------------------------------------------------------

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "gemm_4bit")
DEQUANTIZE = ("dequantize_4bit", "dequantize_blockwise")
ATTENTION = ("_varlen_attn", "_varlen_attn_backward")


def table(costs: Mapping[str, StepCost]) -> str:
    """The costs in Markdown."""
    heads = ["a step", "kernels", "host syncs", "TFLOP", "GB moved"]
    heads += ["… by products", "… dequantizing", "… by attention", "… by all others"]
    lines = []
    for rows, cost in costs.items():
        parts = [cost.gigabytes(*names) for names in (PRODUCTS, DEQUANTIZE, ATTENTION)]
        total = cost.gigabytes()
        numbers = [f"{part:.1f}" for part in (cost.teraflops, total, *parts, total - sum(parts))]
        lines.append([rows, f"{cost.kernels:,}", f"{cost.syncs}", *numbers])
    return _markdown(heads, lines)


def predictions(costs: Mapping[str, StepCost]) -> str:
    """The predicted tokens a second in Markdown, to two digits."""
    lines = [
        [rows, *(f"{float(f'{cost.tokens_per_s(gpu):.2g}'):,.0f}" for gpu in GPUS)]
        for rows, cost in costs.items()
    ]
    return _markdown(["predicted tokens/s", *(gpu.name for gpu in GPUS)], lines)


def memory(costs: Mapping[str, StepCost]) -> str:
    """What a step holds at most beside the weights, counted and as the memory model estimates it
    (its part for the allocator left out), in Markdown."""
    lines = []
    for case, cost in costs.items():
        one, two = (_estimated(layers, CASES[case]) for layers in (1, 2))
        estimated = one + (LAYERS - 1) * (two - one)
        share = f"{estimated / cost.held:.2f}"
        lines.append([case, f"{cost.held / 1e9:.2f}", f"{estimated / 1e9:.2f}", share])
    return _markdown(["a step", "counted, GB", "estimated, GB", "estimated / counted"], lines)


def _estimated(layers: int, case: Case) -> float:
    """Bytes of batch, gradients and Adam's moments, of a model of so many layers."""
    config = config_of("llama-7b", vocab_size=VOCABULARY, num_hidden_layers=layers)
    shapes = shapes_of_config(config, Lora())
    settings = SimpleNamespace(quantization=case.quantization, lora=Lora(), training=Training())
    device = Device(kind="cuda", name="", compute_bytes=2)
    batch = Batch(tokens=TOKENS, scored=TOKENS // 2, checkpoint_every=case.checkpoint_every)
    parts = estimate(shapes, settings, batch, device).parts
    of_batch = sum(size for name, size in parts.items() if name in OF_THE_BATCH - {ALLOCATED})
    return of_batch + shapes.lora_parameters * (trained_weight_bytes(device) - FLOAT32)


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in (heads, *lines)]
    return "\n".join([rows[0], "|---" * len(heads) + "|", *rows[1:]])

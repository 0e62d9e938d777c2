"""One card, in less than nine minutes: a base of LLaMA 7B's shape with random weights, made on the
card; nothing is downloaded.

    python -m benchmarks.gpu [--shape llama-7b] [--json FILE]

Trains steps of Alpaca's length and of 2,048 tokens with all kernels, without each of them and with
none, four together, by transformers' own Trainer, and by TRL and Unsloth where they are installed;
scores and answers. Every training is timed after a first step. Nothing is begun that would take
more than nine minutes in all. Without a GPU, `--shape tiny` tries the script; its peak memory is
the whole process's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import LlamaForCausalLM

from benchmarks import gpu_trainers, harness
from benchmarks.gpu_budget import Budget, LeftOutError, installed
from benchmarks.gpu_trainers import NF4, PASS_TOKENS, Clock, Rows, word_tokenizer
from benchmarks.random_base import SHAPES, config_of, on_device
from chatpipe.config.schema import Generation, Lora, Quantization, Training
from chatpipe.diagnosis.rates import matrix_rate, measured_rates
from chatpipe.diagnosis.self_check import check_kernels
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.generation.batch import written_ids
from chatpipe.generation.row_request import RowRequest
from chatpipe.kernels.switch import BY_DEFAULT, VARIABLE
from chatpipe.models.devices import peak_memory_bytes
from chatpipe.models.lora import with_adapter
from chatpipe.models.memory import Batch, estimate, training_flops
from chatpipe.models.placement import this_device
from chatpipe.models.shapes import shapes_of_config
from chatpipe.packing.batching import batching_for
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.group import SharedPasses, with_shared_weights
from chatpipe.training.step_work import StepWork
from chatpipe.training.trainer import batch_training
from chatpipe.training.turns import Turn

VOCABULARY = 32_000
PAPER = Lora(rank=8, target_modules=("q_proj", "v_proj"))
PLAIN = Quantization(method="none")
ON_GPUS = ("packing", "varlen_attention", "cross_entropy", "lora_training")
MEMORY = ("peak_memory_bytes", "estimated_bytes")
Result = dict[str, Any]
Make = Callable[[Any, Rows, str, int], Any]  # a trainer, of model, rows, directory and steps


class Card:
    """The base's configuration, and what all measurements need."""

    def __init__(self, shape: str, steps: int, budget: Budget) -> None:
        self.config = config_of(shape, vocab_size=VOCABULARY)
        self.steps = steps
        self.peak_flops = matrix_rate()
        self.results: list[Result] = []
        self.budget = budget

    def measure(self, name: str, run: Callable[[], Result]) -> None:
        """Add the result of one contender; an error is its result, and the others go on."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            with self.budget.spent():
                result = run()
        except LeftOutError as reason:
            result = {"error": f"left out: {reason}"}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        self.results.append({"contender": name, **result})
        print(" | ".join(shown(self.results[-1]).values()), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def train(
        self,
        rows: Rows,
        lora: Lora = Lora(),  # noqa: B008 (frozen)
        quantization: Quantization = NF4,
        make: Make = gpu_trainers.own,
    ) -> Result:
        """Tokens a second of chatpipe's trainer, or of another one."""
        own = make is gpu_trainers.own
        model = with_adapter(on_device(self.config, quantization), lora)
        step_tokens = sum(len(row.input_ids) for row in rows)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make(model, rows, folder, self.steps + 1)
            clock = Clock()
            trainer.add_callback(clock)
            with batch_training(model, trainer.batching) if own else nullcontext():
                trainer.train()
        batch = Batch(tokens=step_tokens, scored=step_tokens // 2)
        return self._trained(step_tokens, clock, batch, _Settings(quantization, lora))

    def train_together(self, rows: Rows, trainings: int) -> Result:
        """Tokens a second of several trainings that share their passes, all of them counted."""
        base = on_device(self.config, NF4)
        model = with_adapter(with_shared_weights(base), Lora())
        largest = Batch(tokens=PASS_TOKENS, scored=PASS_TOKENS, adapters=trainings)
        passes = SharedPasses(base, model, batching_for(model), largest)
        clock = Clock()

        def training(folder: str, turn: Turn[StepWork, torch.Tensor]) -> None:
            own = with_adapter(passes.own_base(), Lora())
            trainer = gpu_trainers.own(own, rows, folder, self.steps + 1)
            trainer.add_callback(clock)
            trainer.joint = passes.joint(turn, own)
            trainer.train()

        with tempfile.TemporaryDirectory() as folder:
            for turn in passes.run([partial(training, folder)] * trainings):
                if turn.error:
                    raise turn.error
        tokens = trainings * sum(len(row.input_ids) for row in rows)
        batch = Batch(tokens=tokens, scored=tokens // 2, adapters=trainings)
        return self._trained(tokens, clock, batch, _Settings(NF4, Lora()))

    def unsloth(self, rows: Rows) -> Result:
        """Tokens a second of Unsloth's trainer, in a process of its own."""
        if not torch.cuda.is_available():
            raise LeftOutError("there is no GPU")
        with tempfile.TemporaryDirectory() as folder:
            base, rows_file = Path(folder, "base"), Path(folder, "rows.json")
            with torch.device("cuda"):
                model = LlamaForCausalLM._from_config(self.config, dtype=torch.bfloat16)
            model.save_pretrained(base)
            word_tokenizer().save_pretrained(base)
            del model
            torch.cuda.empty_cache()
            rows_file.write_text(json.dumps([[row.input_ids, row.labels] for row in rows]), "utf-8")
            command = [sys.executable, "-m", "benchmarks.gpu_unsloth"]
            done = subprocess.run(
                [*command, str(base), str(rows_file), str(self.steps + 1)],
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                timeout=max(1.0, self.budget.left),
            )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
        measured = json.loads(done.stdout.splitlines()[-1])
        tokens = sum(len(row.input_ids) for row in rows) * self.steps
        rate = tokens / measured["seconds"]
        return {
            **self._rate(rate, NF4_AND_LORA),
            "peak_memory_bytes": measured["peak_memory_bytes"],
        }

    def _trained(self, tokens: int, clock: Clock, batch: Batch, settings: _Settings) -> Result:
        """The result of a training with so many tokens a step."""
        rate = tokens * self.steps / clock.seconds()
        shapes = shapes_of_config(self.config, settings.lora)
        expected = estimate(shapes, settings, batch, this_device(settings.quantization))
        return {
            **self._rate(rate, settings),
            "peak_memory_bytes": peak_memory_bytes(),
            "estimated_bytes": expected.total,
        }

    def _rate(self, rate: float, settings: _Settings) -> Result:
        flops = training_flops(shapes_of_config(self.config, settings.lora))
        return {"tokens_per_s": rate, "share_of_peak": rate * flops / self.peak_flops}

    def score(self, rows: Rows) -> Result:
        """Tokens a second of scoring by one adapter."""
        model = with_adapter(on_device(self.config, NF4), Lora()).eval()
        row_nats(model, rows[:2], 4096)
        started = time.monotonic()
        row_nats(model, rows, 4096)
        return {
            "tokens_per_s": sum(len(r.input_ids) for r in rows) / (time.monotonic() - started),
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def answer(self, rows: Rows, new_tokens: int) -> Result:
        """New tokens a second: half of the batch by an adapter, half by the base."""
        model = with_adapter(on_device(self.config, NF4), Lora()).eval()
        stops, settings = frozenset([VOCABULARY - 1]), Generation(max_new_tokens=new_tokens)
        requests = [
            RowRequest(n, row.input_ids, "default" if n % 2 else None, stops, settings)
            for n, row in enumerate(rows)
        ]
        started = time.monotonic()
        written = written_ids(model, requests)
        tokens = sum(map(len, written))
        return {
            "tokens_per_s": tokens / (time.monotonic() - started),
            "peak_memory_bytes": peak_memory_bytes(),
        }


class _Settings:
    """What the estimate of memory looks at."""

    def __init__(self, quantization: Quantization, lora: Lora) -> None:
        self.quantization, self.lora, self.training = quantization, lora, Training()


NF4_AND_LORA = _Settings(NF4, Lora())


def rows_of(count: int, length: int) -> Rows:
    """Random rows of about that length, half of each scored."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(length // 2, length * 3 // 2 + 1, (count,), generator=generator)
    lengths = lengths if count > 1 else torch.tensor([length])
    rows = []
    for number, size in enumerate(lengths.tolist()):
        ids = torch.randint(5, VOCABULARY - 5, (size,), generator=generator).tolist()
        rows.append(TokenizedRow(ids, [*[IGNORED] * (size // 2), *ids[size // 2 :]], number))
    return rows


@contextmanager
def kernels(value: str) -> Iterator[None]:
    """While this lasts, those kernels are on."""
    with mock.patch.dict(os.environ, {VARIABLE: value}):
        yield


def measure_all(card: Card, long: int = 2048, new_tokens: int = 64) -> list[Result]:
    """Every contender on this card."""
    short = rows_of(16, 128)  # of a step
    one = rows_of(1, long)

    def without(kernel: str) -> Result:
        with kernels(",".join(BY_DEFAULT - {kernel})):
            return card.train(short)

    def compiled() -> Result:
        with kernels(",".join(BY_DEFAULT - {"liger"} | {"compile"})):
            return card.train(short)

    def off() -> Result:
        with kernels("off"):
            return card.train(short)

    card.measure("short rows, NF4", lambda: card.train(short))
    card.measure("short rows, dequantized", lambda: card.train(short, quantization=PLAIN))
    card.measure("1 long row, NF4", lambda: card.train(one))
    card.measure("1 long row, dequantized", lambda: card.train(one, quantization=PLAIN))
    card.measure("the paper's 2 rows", lambda: card.train(short[:2], PAPER))
    card.measure("4 short rows, NF4", lambda: card.train(short[:4]))
    card.measure(
        "4 trainings of 4 short rows together, NF4", lambda: card.train_together(short[:4], 4)
    )
    for kernel in ON_GPUS:
        card.measure(f"short rows, NF4, without {kernel}", lambda k=kernel: without(k))
    card.measure("short rows, NF4, compile instead of liger", installed("triton", compiled))
    card.measure("short rows, NF4, no kernel", off)
    card.measure(
        "short rows, NF4, transformers' Trainer",
        lambda: card.train(short, make=gpu_trainers.plain),
    )
    card.measure("scoring 64 rows", lambda: card.score(rows_of(64, 128)))
    card.measure("answers of 32", lambda: card.answer(rows_of(32, 64), new_tokens))
    # Last, because TRL has Liger change transformers' functions.
    card.measure(
        "short rows, NF4, TRL", installed("trl", lambda: card.train(short, make=gpu_trainers.trl))
    )
    card.measure("short rows, NF4, Unsloth", installed("unsloth", lambda: card.unsloth(short)))
    return card.results


def shown(result: Result) -> dict[str, str]:
    """A result as a line of the table."""
    gib = {name: f"{result[name] / 2**30:.1f}" for name in MEMORY if name in result}
    share = result.get("share_of_peak")
    return {
        "contender": result["contender"],
        "tokens/s": result.get("error") or f"{result['tokens_per_s']:,.0f}",
        "of the best product": "" if share is None else f"{share:.0%}",
        "peak GiB": gib.get("peak_memory_bytes", ""),
        "estimated GiB": gib.get("estimated_bytes", ""),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    budget = Budget.of_process()
    findings = [*measured_rates(), *check_kernels()]
    for finding in findings:
        print(f"{finding.state}: {finding.name}: {finding.text}")
    results = measure_all(Card(options.shape, options.steps, budget))
    print()
    harness.table("On this card", [shown(result) for result in results])
    if options.json:
        content = {"check": [f.model_dump() for f in findings], "results": results}
        options.json.write_text(json.dumps(content, indent=1), "utf-8")


if __name__ == "__main__":
    main()

"""Each kernel of $CHATPIPE_KERNELS left out in turn: how much longer a training, a scoring and a
panel of answers take, and how far the figures are apart.

    python -m benchmarks.kernels [--rounds 3] [--rows 48] [--only packing …]

Seconds are of the processor, summed over threads, with one thread for products: other programs on
the machine hardly change them. `concurrency`, which only shares out the same work, is measured by
the clock instead (--clock), with all threads.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, rows, training
from benchmarks.adapted import with_adapters
from chatpipe.config.prompts import template
from chatpipe.config.schema import Evaluation, Generation, Quantization
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.generation.batch import complete
from chatpipe.kernels.switch import BY_DEFAULT, KERNELS, VARIABLE, recorded_kernels
from chatpipe.models.devices import peak_memory_bytes
from chatpipe.models.loading import load_fast_base, load_tokenizer
from chatpipe.runtime.environment import prepare
from chatpipe.tokenization.conversation import Conversation
from chatpipe.tokenization.encoder import Encoder
from chatpipe.training.trainer import batch_training

CONTENDERS = ("auto", "off", *(name for name in KERNELS if name in BY_DEFAULT))
PARTS = ("training", "scoring", "answers")
PROMPTS, NEW_TOKENS = 12, 16


def value_of(contender: str) -> str:
    """What the variable is set to: all kernels but that one."""
    if contender in ("auto", "off"):
        return contender
    return ",".join(BY_DEFAULT - {contender})


def run(name: str, options: argparse.Namespace) -> harness.Result:
    prepare()
    os.environ[VARIABLE] = value_of(name)
    if not options.clock:
        torch.set_num_threads(1)
    clock = time.monotonic if options.clock else time.process_time
    base = rows.base_model(options.base).path
    train, heldout = rows.tokenized(rows.base_model(options.base), None, (options.rows, 48))
    with recorded_kernels() as kernels:
        found = _training(base, train, clock)
        found["peak_memory_bytes"] = peak_memory_bytes()
        gc.collect()
        model, names = with_adapters(load_fast_base(base, Quantization()), 2)
        started = clock()
        nats = row_nats(model, heldout, Evaluation().batch_tokens)
        found["scoring"] = clock() - started
        encoder = Encoder(load_tokenizer(base), template("alpaca"), "all", 1 << 20)
        asked = rows.examples(None).select(["instruction", "input"]).to_pylist()[:PROMPTS]
        prompts = [Conversation(row["instruction"], row["input"]) for row in asked]
        through = [names[n % len(names)] for n in range(PROMPTS)]
        started = clock()
        complete(model, encoder, prompts, Generation(max_new_tokens=NEW_TOKENS), through)
        found["answers"] = clock() - started
    return {**found, "nats": sum(nats), "kernels": sorted(kernels.ran)}


def _training(base: Path, train: training.Rows, clock: Callable[[], float]) -> harness.Result:
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.ours(base, train, folder)
        started = clock()
        with batch_training(trainer.model, trainer.batching):
            trainer.train()
        seconds = clock() - started
    losses = [item["loss"] for item in trainer.state.log_history if "loss" in item]
    return {"training": seconds, "last_loss": losses[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--base", help="a model directory; the embedded 135M base when left out")
    parser.add_argument("--clock", action="store_true", help="seconds by the clock, all threads")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS[1:], help="leave out these alone")
    options = parser.parse_args()
    if options.contender:
        harness.say(run(options.contender, options))
        return
    passed = [f"--rows={options.rows}"]
    passed += [f"--base={options.base}"] if options.base else []
    passed += ["--clock"] if options.clock else []
    contenders = ["auto", *(options.only or CONTENDERS[1:])]
    found = harness.contend("benchmarks.kernels", contenders, options.rounds, passed)
    ratios: dict[str, Any] = {
        name: {part: harness.ratio(found, part, name, "auto") for part in PARTS}
        for name in contenders[1:]
    }
    harness.table(
        "How many times as long without it",
        [
            {"kernel": name, **{part: harness.shown(of[part]) for part in PARTS}}
            for name, of in ratios.items()
        ],
    )
    command = harness.command("benchmarks.kernels", options.rounds, passed, options.only)
    name = "kernels_by_the_clock" if options.clock else "kernels"
    harness.write(name, command, {"ratios": ratios, "rounds": found})


if __name__ == "__main__":
    main()

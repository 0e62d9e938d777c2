"""Perplexity: real tokens a second, on the same rows, with the same nats.

The base in full precision, because that is what lm-evaluation-harness loads here, alone or with an
adapter on it:
  padded      transformers alone, padded batches of 8 rows of like length
  harness-1   lm-evaluation-harness, its Hugging Face backend, batch size 1
  harness-8   the same, batch size 8
  harness-16  the same, batch size 16
  ours        chatpipe's packed scoring

    python -m benchmarks.evaluation [--rounds 3] [--rows 100] [--file ROWS] [--adapter]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.nn.functional import cross_entropy

from benchmarks import harness, rows
from benchmarks.adapted import with_adapters
from benchmarks.padded import pad
from chatpipe.config.schema import Evaluation, Quantization
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.models.devices import peak_memory_bytes
from chatpipe.models.inference import load_model
from chatpipe.models.loading import load_tokenizer
from chatpipe.runtime.environment import prepare
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow

PLAIN = Quantization(method="none")
BATCH_TOKENS = Evaluation().batch_tokens
CONTENDERS = ("padded", "harness-1", "harness-8", "harness-16", "ours")


def harness_nats(
    model: Any, tokenizer: Any, held: Sequence[TokenizedRow], batch: int
) -> tuple[list[float], float]:
    """(nats of every row, seconds) by lm-evaluation-harness."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
    asked = []
    for number, row in enumerate(held):
        prompt = sum(label == IGNORED for label in row.labels)
        asked.append(((str(number), ""), row.input_ids[:prompt], row.input_ids[prompt:]))
    started = time.monotonic()
    answers = lm._loglikelihood_tokens(asked, disable_tqdm=True)
    return [-answer[0] for answer in answers], time.monotonic() - started


def padded_nats(
    model: Any, held: Sequence[TokenizedRow], batch: int = 8
) -> tuple[list[float], float]:
    """(nats of every row, the shortest first, seconds) by transformers alone."""
    rows_by_length = sorted(held, key=lambda row: len(row.input_ids))
    nats: list[float] = []
    started = time.monotonic()
    with torch.inference_mode():
        for first in range(0, len(rows_by_length), batch):
            padded = send_to_device(pad(rows_by_length[first : first + batch]), model.device)
            labels = padded.pop("labels")[:, 1:]
            logits = model(**padded).logits[:, :-1].float()
            of_tokens = cross_entropy(
                logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
            )
            nats += of_tokens.sum(1).tolist()
    return nats, time.monotonic() - started


def our_nats(model: Any, held: Sequence[TokenizedRow]) -> tuple[list[float], float]:
    """(nats of every row, seconds) by chatpipe."""
    started = time.monotonic()
    nats = row_nats(model, held, BATCH_TOKENS)
    return nats, time.monotonic() - started


def run(name: str, options: argparse.Namespace) -> harness.Result:
    prepare()
    base = rows.base_model(options.base)
    held, _ = rows.tokenized(base, options.file, (options.rows, 0))
    model, _ = with_adapters(load_model(base.path, None, PLAIN), int(options.adapter))
    if name == "ours":
        nats, seconds = our_nats(model, held)
    elif name == "padded":
        nats, seconds = padded_nats(model, held)
    else:
        batch = int(name.rpartition("-")[2])
        nats, seconds = harness_nats(model, load_tokenizer(base.path), held, batch)
    tokens = sum(len(row.input_ids) for row in held)
    return {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "tokens": tokens,
        "nats": sum(nats),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--base", help="a model directory; the embedded 135M base when left out")
    parser.add_argument("--file", type=Path, help="rows of one's own")
    parser.add_argument("--adapter", action="store_true", help="score an adapter, not the base")
    harness.add_only(parser, CONTENDERS)
    options = parser.parse_args()
    if options.contender:
        harness.say(run(options.contender, options))
        return
    passed = [f"--rows={options.rows}"]
    passed += [f"--base={options.base}"] if options.base else []
    passed += [f"--file={options.file}"] if options.file else []
    passed += ["--adapter"] if options.adapter else []
    contenders = harness.chosen(CONTENDERS, options.only)
    found = harness.contend("benchmarks.evaluation", contenders, options.rounds, passed)
    ratios = harness.ratios(found)
    lines = []
    for name, results in found.items():
        against = ratios.get(name)
        lines.append(
            {
                "contender": name,
                "tokens/s": f"{median(r['tokens_per_s'] for r in results):,.0f}",
                "nats": f"{results[0]['nats']:,.1f}",
                "peak GiB": f"{median(r['peak_memory_bytes'] for r in results) / 2**30:.1f}",
                "ours is faster by": harness.shown(against),
            }
        )
    scored = "an adapter's" if options.adapter else "the base's"
    harness.table(f"Perplexity, {scored}, real tokens a second", lines)
    command = harness.command("benchmarks.evaluation", options.rounds, passed, options.only)
    named = "evaluation_adapter" if options.adapter else "evaluation"
    harness.write(named, command, {"rounds": found, "ratios": ratios})


if __name__ == "__main__":
    main()

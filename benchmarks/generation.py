"""Generation: tokens a second over 32 prompts, one at a time and in one batch, and whether the
greedy text is the same.

  one-by-one  `generate` for each prompt alone, on bitsandbytes' NF4 layers
  fast-alone  the same on the dequantized base that chatpipe asks
  by-model    chatpipe's batch over the prompts of one model after the other
  peft        one padded batch over all models on the dequantized base, by peft's `adapter_names`
  alternating the same as ours, the models in turns instead of one after the other
  ours        chatpipe's batch over all prompts (and all models)

    python -m benchmarks.generation [--rounds 3] [--tokens 32] [--models 4]

With several models, the prompts are dealt out among the base and adapters on it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, rows
from benchmarks.adapted import with_adapters
from benchmarks.by_generate import generate_arguments, generated_ids
from chatpipe.config.prompts import render, template
from chatpipe.config.schema import Generation, Quantization
from chatpipe.generation.batch import Completion, complete, completion_of
from chatpipe.kernels.lora_inference import switched_to
from chatpipe.models.loading import load_base, load_fast_base, load_tokenizer
from chatpipe.runtime.environment import prepare
from chatpipe.tokenization.encoder import Encoder

CONTENDERS = ("one-by-one", "fast-alone", "ours")
OF_MODELS = ("one-by-one", "fast-alone", "by-model", "peft", "alternating", "ours")
PROMPTS = 32

# Of prompts and the adapters that they are for.
Answering = Callable[[list[str], list[str | None]], list[Completion]]


@dataclass(frozen=True)
class Panel:
    """A model, the prompts, and the adapter that each is for (None: the base)."""

    model: Any
    encoder: Encoder
    prompts: list[str]
    adapters: list[str | None]


def panel(load: Callable[..., Any], options: argparse.Namespace) -> Panel:
    prepare()
    base = rows.base_model(options.base).path
    model, names = with_adapters(load(base, Quantization()), options.models - 1)
    alpaca = template("alpaca")
    asked = rows.examples(None).select(["instruction", "input"]).to_pylist()[:PROMPTS]
    return Panel(
        model=model,
        encoder=Encoder(load_tokenizer(base), alpaca, "all", 1 << 20),
        prompts=[render(alpaca, row["instruction"], row["input"]) for row in asked],
        adapters=sorted((names[n % len(names)] for n in range(PROMPTS)), key=names.index),
    )


def run(name: str, options: argparse.Namespace) -> harness.Result:
    made = panel(load_base if name == "one-by-one" else load_fast_base, options)
    settings = Generation(max_new_tokens=options.tokens)
    answering = _answering(name, made.model, made.encoder, settings)
    answering(made.prompts[-1:], made.adapters[-1:])  # the first one warms up
    started = time.monotonic()
    answers = answering(made.prompts, made.adapters)
    seconds = time.monotonic() - started
    tokens = sum(answer.tokens for answer in answers)
    return {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "tokens": tokens,
        "texts": [answer.text for answer in answers],
    }


def _answering(name: str, model: Any, encoder: Encoder, settings: Generation) -> Answering:
    def together(prompts: list[str], adapters: list[str | None]) -> list[Completion]:
        return complete(model, encoder, prompts, settings, adapters)

    def alone(prompts: list[str], adapters: list[str | None]) -> list[Completion]:
        asked = zip(encoder.prompt_ids(prompts), adapters, strict=True)
        stops = encoder.renderer.stops
        return [
            completion_of(
                generated_ids(model, ids, adapter, stops, settings), encoder.tokenizer, stops
            )
            for ids, adapter in asked
        ]

    def by_model(prompts: list[str], adapters: list[str | None]) -> list[Completion]:
        asked = zip(prompts, adapters, strict=True)
        parts = ((of, list(pairs)) for of, pairs in groupby(asked, lambda pair: pair[1]))
        return [
            answer
            for adapter, pairs in parts
            for answer in together([prompt for prompt, _ in pairs], [adapter] * len(pairs))
        ]

    def by_peft(prompts: list[str], adapters: list[str | None]) -> list[Completion]:
        return mixed_by_peft(model, encoder, prompts, adapters, settings)

    def in_turns(prompts: list[str], adapters: list[str | None]) -> list[Completion]:
        order = alternating(adapters)
        answers = together([prompts[n] for n in order], [adapters[n] for n in order])
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=first)]

    first = itemgetter(0)
    ways = {"ours": together, "alternating": in_turns, "by-model": by_model, "peft": by_peft}
    return ways.get(name, alone)


def alternating(adapters: Sequence[str | None]) -> list[int]:
    """The places of prompts in an order in which the models take turns."""
    counts: Counter[str | None] = Counter()
    turns = []
    for place, adapter in enumerate(adapters):
        turns.append((counts[adapter], place))
        counts[adapter] += 1
    return [place for _, place in sorted(turns)]


def mixed_by_peft(
    model: Any,
    encoder: Encoder,
    prompts: list[str],
    adapters: list[str | None],
    settings: Generation,
) -> list[Completion]:
    """As peft's documentation has it: one padded batch, an adapter's name for every row."""
    tokenizer = encoder.tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    ids = {"input_ids": encoder.prompt_ids(prompts)}
    padded = tokenizer.pad(ids, padding_side="left", return_tensors="pt").to(model.device)
    names = [name or "__base__" for name in adapters]
    asked = generate_arguments(settings, ids["input_ids"], [tokenizer.eos_token_id])
    with torch.no_grad():
        out = model.generate(**padded, adapter_names=names, **asked)
    width = padded["input_ids"].shape[1]
    return [completion_of(row[width:].tolist(), tokenizer, [tokenizer.eos_token_id]) for row in out]


def partings(made: Panel, alone: list[str], together: list[str]) -> list[dict[str, Any]]:
    """Every two answers to one prompt that are not the same, and how near to each other the model
    has the two tokens with which they part, in nats."""
    tokenizer = made.encoder.tokenizer
    pairs = zip(made.encoder.prompt_ids(made.prompts), made.adapters, alone, together, strict=True)
    found = []
    for start, adapter, *texts in pairs:
        if texts[0] == texts[1]:
            continue
        ids = [
            [*tokenizer(t, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            for t in texts
        ]
        common = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ids, strict=False))]
        with torch.no_grad(), switched_to(made.model, adapter):
            read = torch.tensor([start + common], device=made.model.device)
            logits = made.model(read).logits[0, -1].float()
        nats = logits.log_softmax(-1)[[one[len(common)] for one in ids]]
        gap = float((nats[0] - nats[1]).abs())
        found.append({"alone": texts[0], "together": texts[1], "nats_apart": round(gap, 3)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--models", type=int, default=1, help="the base, and adapters on it")
    parser.add_argument("--base", help="a model directory; the embedded 135M base when left out")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        harness.say(run(options.contender, options))
        return
    passed = [f"--tokens={options.tokens}", f"--models={options.models}"]
    passed += [f"--base={options.base}"] if options.base else []
    contenders = OF_MODELS if options.models > 1 else CONTENDERS
    found = harness.contend("benchmarks.generation", contenders, options.rounds, passed)
    ratios = harness.ratios(found)
    texts = {name: results[0].pop("texts") for name, results in found.items()}
    for result in (later for results in found.values() for later in results[1:]):
        result.pop("texts")
    different = partings(panel(load_fast_base, options), texts["fast-alone"], texts["ours"])
    harness.rate_table(f"Generation, {PROMPTS} prompts, models: {options.models}", found)
    print(f"{PROMPTS - len(different)} of {PROMPTS} texts are those of fast-alone; the others:")
    for pair in different:
        print(f"  {pair['nats_apart']} nats between the tokens with which they part")
        print(f"    alone:    {pair['alone']!r}\n    together: {pair['together']!r}")
    command = harness.command("benchmarks.generation", options.rounds, passed)
    found_all = {"rounds": found, "ratios": ratios, "different": different}
    several = f"_{options.models}_models" if options.models > 1 else ""
    harness.write(f"generation{several}", command, found_all)


if __name__ == "__main__":
    main()

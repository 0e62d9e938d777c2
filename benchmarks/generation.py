"""Generation: tokens a second over 32 prompts, one at a time and in one batch, and whether the
greedy text is the same.

  one-by-one  `generate` for each prompt alone, on bitsandbytes' NF4 layers
  fast-alone  the same on the dequantized base that chatpipe asks: batching alone
  ours        chatpipe's batch over all prompts

    python -m benchmarks.generation [--rounds 3] [--tokens 32]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from benchmarks import harness, rows
from chatpipe.config import Generation, Quantization
from chatpipe.generation import complete
from chatpipe.modeling import load_base, load_fast_base, load_tokenizer
from chatpipe.prompts import render, template
from chatpipe.quiet import quieten
from chatpipe.tokenization import Encoder

CONTENDERS = ("one-by-one", "fast-alone", "ours")
PROMPTS = 32


def run(name: str, options: argparse.Namespace) -> harness.Result:
    quieten()
    base = rows.base_model(options.base).path
    load = load_base if name == "one-by-one" else load_fast_base
    model = load(base, Quantization())
    alpaca = template("alpaca")
    encoder = Encoder(load_tokenizer(base), alpaca, "all", 1 << 20)
    asked = rows.examples(None).select(["instruction", "input"]).to_pylist()[:PROMPTS]
    prompts = [render(alpaca, row["instruction"], row["input"]) for row in asked]
    settings = Generation(max_new_tokens=options.tokens)
    complete(model, encoder, prompts[:1], settings)  # the first one warms up
    started = time.monotonic()
    if name == "ours":
        answers = complete(model, encoder, prompts, settings)
    else:
        answers = [complete(model, encoder, [prompt], settings)[0] for prompt in prompts]
    seconds = time.monotonic() - started
    tokens = sum(answer.tokens for answer in answers)
    return {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "tokens": tokens,
        "texts": [answer.text for answer in answers],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--base", help="a model directory; the embedded 135M base when left out")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        harness.say(run(options.contender, options))
        return
    passed = [f"--tokens={options.tokens}"]
    passed += [f"--base={options.base}"] if options.base else []
    found = harness.contend("benchmarks.generation", CONTENDERS, options.rounds, passed)
    ratios = {
        name: harness.ratio(found, "tokens_per_s", "ours", name) for name in found if name != "ours"
    }
    texts = {name: results[0].pop("texts") for name, results in found.items()}
    for result in (later for results in found.values() for later in results[1:]):
        result.pop("texts")
    pairs = list(zip(texts["one-by-one"], texts["ours"], strict=True))
    different = [pair for pair in pairs if pair[0] != pair[1]]
    harness.table(
        f"Generation, {PROMPTS} prompts",
        [
            {
                "contender": name,
                "tokens/s": f"{median(r['tokens_per_s'] for r in results):,.0f}",
                "ours is faster by": harness.shown(ratios.get(name)),
            }
            for name, results in found.items()
        ],
    )
    print(f"{PROMPTS - len(different)} of {PROMPTS} texts are the same")
    for alone, together in different:
        print(f"  alone:    {alone!r}\n  together: {together!r}")
    command = f"python -m benchmarks.generation --rounds {options.rounds} {' '.join(passed)}"
    found_all = {"rounds": found, "ratios": ratios, "different": different}
    harness.write("generation", command, found_all)


if __name__ == "__main__":
    main()

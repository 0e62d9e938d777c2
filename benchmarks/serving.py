"""The endpoint: tokens a second over 32 requests at once, by the base and adapters on it, beside
the batch that `benchmarks.generation` measures.

  batch  chatpipe's batch over all prompts, without HTTP
  ours   the same prompts as 32 requests at once to a server of this process, over HTTP

    python -m benchmarks.serving [--rounds 3] [--tokens 32] [--models 4]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
import time
from typing import Any

import httpx2

from benchmarks import generation, harness, rows
from chatpipe.config.schema import Generation
from chatpipe.generation.batch import complete
from chatpipe.models.loading import load_fast_base, load_tokenizer
from chatpipe.serving.app import Service
from chatpipe.serving.engine import Engine
from chatpipe.serving.served_models import ServedModel
from chatpipe.serving.server import run as serve

CONTENDERS = ("batch", "ours")


def run(name: str, options: argparse.Namespace) -> harness.Result:
    panel = generation.panel(load_fast_base, options)
    settings = Generation(max_new_tokens=options.tokens)
    if name == "batch":
        texts, tokens, seconds = _by_batch(panel, settings)
    else:
        decoder = load_tokenizer(rows.base_model(options.base).path)
        texts, tokens, seconds = _by_requests(panel, settings, decoder)
    return {"tokens_per_s": tokens / seconds, "seconds": seconds, "tokens": tokens, "texts": texts}


def _by_batch(panel: generation.Panel, settings: Generation) -> tuple[list[str], int, float]:
    def answers(count: int) -> Any:
        prompts, adapters = panel.prompts[-count:], panel.adapters[-count:]
        return complete(panel.model, panel.encoder, prompts, settings, adapters)

    answers(1)  # the first one warms up
    started = time.monotonic()
    completions = answers(len(panel.prompts))
    seconds = time.monotonic() - started
    return [one.text for one in completions], sum(one.tokens for one in completions), seconds


def _by_requests(
    panel: generation.Panel, settings: Generation, decoder: Any
) -> tuple[list[str], int, float]:
    names = {adapter: adapter or "base" for adapter in panel.adapters}
    models = {
        name: ServedModel(name, panel.encoder, adapter, settings) for adapter, name in names.items()
    }
    service = Service(Engine(panel.model), models, decoder, None)
    requests = [
        (names[adapter], prompt)
        for adapter, prompt in zip(panel.adapters, panel.prompts, strict=True)
    ]
    results: list[tuple[list[str], int, float]] = []

    def ask(address: str) -> None:
        try:
            results.append(asyncio.run(_ask(address, requests)))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # ends the server

    serve(
        service,
        ("127.0.0.1", 0),
        None,
        lambda address: threading.Thread(target=ask, args=(address,)).start(),
    )
    return results[0]


async def _ask(address: str, requests: list[tuple[str, str]]) -> tuple[list[str], int, float]:
    """The texts of all, their tokens, and the seconds from the first request to the last reply."""
    async with httpx2.AsyncClient(timeout=None) as client:

        async def one(model: str, prompt: str) -> Any:
            body = {"model": model, "prompt": prompt}
            reply = await client.post(f"{address}v1/completions", json=body)
            return reply.raise_for_status().json()

        await one(*requests[-1])  # the first one warms up
        started = time.monotonic()
        replies = await asyncio.gather(*(one(*request) for request in requests))
        seconds = time.monotonic() - started
    texts = [reply["choices"][0]["text"].strip() for reply in replies]
    return texts, sum(reply["usage"]["completion_tokens"] for reply in replies), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--models", type=int, default=4, help="the base, and adapters on it")
    parser.add_argument("--base", help="a model directory; the embedded 135M base when left out")
    options = parser.parse_args()
    if options.contender:
        harness.say(run(options.contender, options))
        return
    passed = [f"--tokens={options.tokens}", f"--models={options.models}"]
    passed += [f"--base={options.base}"] if options.base else []
    rounds = harness.contend("benchmarks.serving", CONTENDERS, options.rounds, passed)
    texts = {name: results[0]["texts"] for name, results in rounds.items()}
    for result in (one for results in rounds.values() for one in results):
        result.pop("texts")
    equal = sum(map(str.__eq__, texts["batch"], texts["ours"]))
    ratios = harness.ratios(rounds)
    harness.rate_table(f"{generation.PROMPTS} requests at once, models: {options.models}", rounds)
    print(f"{equal} of {generation.PROMPTS} texts are those of the batch.")
    command = harness.command("benchmarks.serving", options.rounds, passed)
    several = f"_{options.models}_models" if options.models > 1 else ""
    content = {"rounds": rounds, "ratios": ratios, "equal_texts": equal}
    harness.write(f"serving{several}", command, content)


if __name__ == "__main__":
    main()

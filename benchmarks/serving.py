"""The endpoint: tokens a second over 32 requests at once, by the base and adapters on it, beside
the batch that `benchmarks.generation` measures and beside llama.cpp's server.

  batch      chatpipe's batch over all prompts, without HTTP
  llama      llama.cpp's server (wheel xllamacpp), the base in Q4_1, the adapters as GGUF
  ours       the same prompts as 32 requests at once to a server of this process, over HTTP
  one-batch, one-llama, one-ours
             the same with one request after the other, of fewer prompts

    python -m benchmarks.serving [--rounds 3] [--tokens 32] [--models 4]

The models take turns in the order of the prompts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import torch

from benchmarks import generation, harness, llama_server, rows
from chatpipe.config.schema import Generation
from chatpipe.generation.batch import Completion, complete
from chatpipe.models.concurrency import leave_cores_to_another_thread
from chatpipe.models.loading import load_fast_base, load_tokenizer
from chatpipe.serving.app import Service
from chatpipe.serving.engine import Engine
from chatpipe.serving.served_models import ServedModel
from chatpipe.serving.server import run as serve

AT_ONCE = ("batch", "llama", "ours")
ONE = "one-"  # begins the contenders that are asked one request after the other
ONE_PROMPTS = 8

# Texts, their tokens, and the seconds that they took.
Answered = tuple[list[str], int, float]
# Sends one request: a model's name (None: the base) and a prompt → the text and its tokens.
Post = Callable[[httpx2.AsyncClient, str | None, str], Awaitable[tuple[str, int]]]


def run(name: str, options: argparse.Namespace) -> harness.Result:
    is_one, kind = name.startswith(ONE), name.removeprefix(ONE)
    settings = Generation(max_new_tokens=options.tokens)
    answer = {"batch": _by_batch, "llama": _by_llama, "ours": _by_requests}[kind]
    texts, tokens, seconds = answer(options, settings, is_one)
    return {"tokens_per_s": tokens / seconds, "seconds": seconds, "tokens": tokens, "texts": texts}


def _panel(options: argparse.Namespace, is_one: bool) -> generation.Panel:
    panel = generation.panel(load_fast_base, options)
    order = generation.alternating(panel.adapters)[: ONE_PROMPTS if is_one else None]
    prompts, adapters = [panel.prompts[n] for n in order], [panel.adapters[n] for n in order]
    return replace(panel, prompts=prompts, adapters=adapters)


def _by_batch(options: argparse.Namespace, settings: Generation, is_one: bool) -> Answered:
    panel = _panel(options, is_one)

    def answers(begin: int, end: int) -> list[Completion]:
        prompts, adapters = panel.prompts[begin:end], panel.adapters[begin:end]
        return complete(panel.model, panel.encoder, prompts, settings, adapters)

    answers(0, 1)  # the first one warms up
    started = time.monotonic()
    count = len(panel.prompts)
    step = 1 if is_one else count
    completions = [one for begin in range(0, count, step) for one in answers(begin, begin + step)]
    seconds = time.monotonic() - started
    return [one.text for one in completions], sum(one.tokens for one in completions), seconds


def _by_requests(options: argparse.Namespace, settings: Generation, is_one: bool) -> Answered:
    """As `chatpipe serve` does: the model is loaded in a thread that ends, and the engine's
    thread has the cores."""
    cores = leave_cores_to_another_thread()
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(cores,)) as pool:
        panel = pool.submit(_panel, options, is_one).result()
    decoder = load_tokenizer(rows.base_model(options.base).path)
    models = {
        adapter or "base": ServedModel(adapter or "base", panel.encoder, adapter, settings)
        for adapter in panel.adapters
    }
    service = Service(Engine(panel.model, cores=cores), models, decoder, None)
    results: list[Answered] = []

    def ask(address: str) -> None:
        async def post(
            client: httpx2.AsyncClient, model: str | None, prompt: str
        ) -> tuple[str, int]:
            body = {"model": model or "base", "prompt": prompt}
            reply = await client.post(f"{address}v1/completions", json=body)
            answer = reply.raise_for_status().json()
            return answer["choices"][0]["text"].strip(), answer["usage"]["completion_tokens"]

        try:
            results.append(asyncio.run(_ask(post, panel.adapters, panel.prompts, is_one)))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # ends the server

    serve(
        service,
        ("127.0.0.1", 0),
        None,
        lambda address: threading.Thread(target=ask, args=(address,)).start(),
    )
    return results[0]


def _by_llama(options: argparse.Namespace, settings: Generation, is_one: bool) -> Answered:
    with tempfile.TemporaryDirectory() as folder:
        panel = _panel(options, is_one)
        names = [name for name in dict.fromkeys(panel.adapters) if name]
        files = llama_server.files(panel.model, names, Path(folder))
        prompts, adapters = panel.prompts, panel.adapters
        del panel
        address, server = llama_server.started(files, len(prompts), torch.get_num_threads())

        async def post(
            client: httpx2.AsyncClient, model: str | None, prompt: str
        ) -> tuple[str, int]:
            scales = [{"id": n, "scale": float(name == model)} for n, name in enumerate(names)]
            body = {"prompt": prompt, "n_predict": settings.max_new_tokens, "temperature": 0.0}
            reply = await client.post(f"{address}/completion", json={**body, "lora": scales})
            answer = reply.raise_for_status().json()
            return answer["content"].strip(), answer["tokens_predicted"]

        answered = asyncio.run(_ask(post, adapters, prompts, is_one))
        del server
        return answered


async def _ask(post: Post, models: list[str | None], prompts: list[str], is_one: bool) -> Answered:
    """The texts of all, their tokens, and the seconds from the first request to the last reply."""
    async with httpx2.AsyncClient(timeout=None) as client:
        await post(client, models[0], prompts[0])  # the first one warms up
        started = time.monotonic()
        pairs = list(zip(models, prompts, strict=True))
        if is_one:
            replies = [await post(client, *pair) for pair in pairs]
        else:
            replies = await asyncio.gather(*(post(client, *pair) for pair in pairs))
        seconds = time.monotonic() - started
    return [text for text, _ in replies], sum(tokens for _, tokens in replies), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender")
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
    command = harness.command("benchmarks.serving", options.rounds, passed)
    has_llama = llama_server.is_installed() and not options.base
    content: dict[str, Any] = {}
    for begin, title in (("", f"{generation.PROMPTS} requests at once"), (ONE, "one at a time")):
        names = [begin + name for name in AT_ONCE if name != "llama" or has_llama]
        rounds = harness.contend("benchmarks.serving", names, options.rounds, passed)
        rounds = {name.removeprefix(ONE): results for name, results in rounds.items()}
        texts = {name: results[0]["texts"] for name, results in rounds.items()}
        for result in (one for results in rounds.values() for one in results):
            result.pop("texts")
        equal = sum(map(str.__eq__, texts["batch"], texts["ours"]))
        harness.rate_table(f"{title}, models: {options.models}", rounds)
        print(f"{equal} of {len(texts['ours'])} texts are those of the batch.")
        ratios = harness.ratios(rounds)
        content[title] = {"rounds": rounds, "ratios": ratios, "equal_texts": equal}
    several = f"_{options.models}_models" if options.models > 1 else ""
    harness.write(f"serving{several}", command, content)


if __name__ == "__main__":
    main()

"""A process that asks llama.cpp: a fault of the library ends this process, and not the export.

It reads one JSON object from standard input and writes `answers.json` and `distributions.npz` into
the directory that its first argument names.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS = "answers.json"
DISTRIBUTIONS = "distributions.npz"
NO_TOKEN = -1  # llama.cpp had ended
MOST_DIFFERENCES = 8  # of a reply; a wrong file differs at nearly every token


def main() -> None:
    """Load the file and answer everything that is asked of it."""
    request = json.load(sys.stdin)
    into = Path(sys.argv[1])
    server = _load(request)
    address = server.listening_address
    questions = request["questions"]
    with ThreadPoolExecutor(request["at_once"]) as pool:
        replies = list(pool.map(lambda question: _differences(address, question), questions))
    chosen = _tokens(address, "a", special=False)[-1]
    distributions = {
        f"{number}-{place}": _distribution(
            address, question["ids"] + question["reply"][:place], chosen
        )
        for number, question in enumerate(questions)
        for place in question["distributions_at"]
    }
    answers = {
        "replies": replies,
        "texts": [_tokens(address, text, special=False) for text in request["texts"]],
        "conversations": [_prompt_ids(address, turns) for turns in request["conversations"]],
    }
    np.savez(into / DISTRIBUTIONS, **distributions)
    (into / ANSWERS).write_text(json.dumps(answers), "utf-8")


def _load(request: dict[str, Any]) -> Any:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = request["model"]
    settings.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in request["adapters"]
    ]
    settings.n_ctx = request["context"] * request["at_once"]
    settings.n_parallel = request["at_once"]
    settings.n_gpu_layers = 0
    settings.fit_params = False
    settings.warmup = False
    settings.cache_prompt = False
    settings.cache_ram_mib = 0
    settings.use_jinja = True
    # Keys and values in half precision would be most of a difference.
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.verbosity = -1
    for threads in (settings.cpuparams, settings.cpuparams_batch):
        threads.n_threads = request["threads"]
    return xllamacpp.Server(settings)


def _differences(address: str, question: dict[str, Any]) -> dict[str, Any]:
    """Where greedy tokens are others than the reply's, each after the reply up to there, and why
    the last of these generations ended."""
    ids, reply = question["ids"], question["reply"]
    differences: list[tuple[int, int]] = []
    place, stop = 0, ""
    while place < len(reply) and len(differences) < MOST_DIFFERENCES:
        written, stop = _greedy(address, ids + reply[:place], len(reply) - place)
        pairs = zip(written, reply[place:], strict=False)
        same = next((n for n, (own, other) in enumerate(pairs) if own != other), len(written))
        if place + same == len(reply):
            place += same
            break
        differences.append((place + same, written[same] if same < len(written) else NO_TOKEN))
        place += same + 1
    return {"differences": differences, "compared": place, "stop": stop}


def _greedy(address: str, ids: list[int], count: int) -> tuple[list[int], str]:
    """The new ids, with the one that ended them, and why they ended: eos or limit."""
    body = {"prompt": ids, "n_predict": count, "temperature": 0.0, "return_tokens": True}
    answer = _post(address, "/completion", {**body, "cache_prompt": False})
    return list(answer["tokens"]), str(answer["stop_type"])


def _distribution(address: str, ids: list[int], chosen: int) -> Any:
    """Log-probabilities (vocabulary,) of the token after those. They are of the logits as they are;
    the bias has only `chosen` generated, as llama.cpp tells none of a token that ends the text or
    that is a part of a character."""
    body = {"prompt": ids, "n_predict": 1, "temperature": 0.0, "n_probs": 1 << 20}
    bias = {"logit_bias": [[chosen, 1e6]], "cache_prompt": False}
    answer = _post(address, "/completion", {**body, **bias})
    every = answer["completion_probabilities"][0]["top_logprobs"]
    values = np.full(len(every), -np.inf, np.float32)
    for token in every:
        values[token["id"]] = token["logprob"]
    return values


def _prompt_ids(address: str, turns: list[dict[str, str]]) -> list[int]:
    text = _post(address, "/apply-template", {"messages": turns})["prompt"]
    return _tokens(address, text, special=True)


def _tokens(address: str, text: str, special: bool) -> list[int]:
    body = {"content": text, "add_special": special, "parse_special": special}
    return list(_post(address, "/tokenize", body)["tokens"])


def _post(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        address.rstrip("/") + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=600) as response:
        return json.load(response)


if __name__ == "__main__":
    main()

"""The command that serves the same models by vLLM, in an environment of its own."""

from __future__ import annotations

import json
import shlex

from chatpipe.serving.served_models import ServedBase

# The values that vLLM takes for --max-lora-rank.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def vllm_command(served: ServedBase) -> str:
    """Return `vllm serve` for the base and its variants' adapters."""
    adapted = [(variant, model) for variant, model in served.variants if model.adapter_path]
    rank = max(variant.lora.rank for variant, _ in adapted)
    largest = next(value for value in RANKS if value >= rank)
    base = ["vllm", "serve", str(served.base)]
    if served.quantization.method == "nf4":
        base += ["--quantization", "bitsandbytes"]
    modules = [_module(variant.name, str(model.adapter_path)) for variant, model in adapted]
    lora = ["--enable-lora", "--max-loras", str(len(adapted)), "--max-lora-rank", str(largest)]
    return shlex.join([*base, *lora, "--lora-modules", *modules])


def _module(name: str, path: str) -> str:
    """Return an adapter as vLLM reads it: name=path, or JSON where it could be misread."""
    plain = f"{name}={path}"
    is_plain = plain.count("=") == 1 and "," not in plain
    return plain if is_plain else json.dumps({"name": name, "path": path})

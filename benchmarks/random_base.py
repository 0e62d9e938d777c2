"""A base of LLaMA's shapes with random weights: what it costs to train is the same, and nothing
has to be downloaded but the embedded base's tokenizer.

    python -m benchmarks.random_base DIRECTORY [--shape llama-7b]
    python -m benchmarks.training --base DIRECTORY --length 2048
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.integrations import replace_with_bnb_linear

from benchmarks import rows
from chatpipe.config.schema import Quantization
from chatpipe.models.devices import compute_dtype, device
from chatpipe.models.loading import load_tokenizer, nf4_config

# hidden size, size of the feed-forward layer, layers, heads (LLaMA paper, table 2)
SHAPES = {
    "llama-7b": (4096, 11008, 32, 32),
    "llama-13b": (5120, 13824, 40, 40),
    "tiny": (64, 128, 1, 4),
}


def config_of(shape: str, **more: Any) -> LlamaConfig:
    """Return the configuration of that shape."""
    hidden, feed_forward, layers, heads = SHAPES[shape]
    settings = {
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 2048,
    }
    return LlamaConfig(**{**settings, **more})


def write(directory: Path, shape: str) -> None:
    """Save model (bfloat16 safetensors) and tokenizer; the vocabulary is the tokenizer's."""
    tokenizer = load_tokenizer(rows.base_model().path)
    config = config_of(
        shape,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def on_device(config: LlamaConfig, quantization: Quantization) -> Any:
    """Return such a base as `load_base` does, its weights drawn on the device itself."""
    dtype, place = compute_dtype(quantization), device()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if quantization.method == "nf4":
        nf4 = nf4_config(quantization, dtype)
        model = replace_with_bnb_linear(model, ["lm_head"], nf4)
        model.is_loaded_in_4bit = True
    for module in list(model.modules()):
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = _drawn(module, weight, dtype, place)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(place)
    model.generation_config = GenerationConfig()
    return model.eval()


def _drawn(
    module: torch.nn.Module, weight: torch.nn.Parameter, dtype: torch.dtype, place: torch.device
) -> torch.nn.Parameter:
    values = torch.empty(weight.shape, dtype=dtype, device=place)
    values.fill_(1) if values.dim() == 1 else values.normal_(0, 0.02)
    if not isinstance(module, bitsandbytes.nn.Linear4bit):
        return torch.nn.Parameter(values, requires_grad=False)
    options = {name: getattr(weight, name) for name in ("compress_statistics", "quant_type")}
    return bitsandbytes.nn.Params4bit(values, False, **options, module=module).to(place)  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
    options = parser.parse_args()
    write(options.directory, options.shape)


if __name__ == "__main__":
    main()

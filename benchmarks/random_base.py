"""A base of LLaMA's shapes with random weights: what it costs to train is the same, and nothing
has to be downloaded but the embedded base's tokenizer.

    python -m benchmarks.random_base DIRECTORY [--shape llama-7b]
    python -m benchmarks.training --base DIRECTORY --length 2048
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import rows
from chatpipe.models.loading import load_tokenizer

# hidden size, size of the feed-forward layer, layers, heads (LLaMA paper, table 2)
SHAPES = {
    "llama-7b": (4096, 11008, 32, 32),
    "llama-13b": (5120, 13824, 40, 40),
    "tiny": (64, 128, 2, 4),
}


def write(directory: Path, shape: str) -> None:
    """Save model (bfloat16 safetensors) and tokenizer; the vocabulary is the tokenizer's."""
    hidden, feed_forward, layers, heads = SHAPES[shape]
    tokenizer = load_tokenizer(rows.base_model().path)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
    options = parser.parse_args()
    write(options.directory, options.shape)


if __name__ == "__main__":
    main()

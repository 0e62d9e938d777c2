"""GGUF → a plain safetensors model directory."""

from __future__ import annotations

from pathlib import Path


def save_as_safetensors(gguf: Path, into: Path) -> None:
    """Dequantize a GGUF model and save it, with its tokenizer, as bfloat16 safetensors.

    transformers refuses to save a model that is still marked as GGUF-quantized, so its weights
    are copied into a fresh model of the same configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, trust_remote_code=False
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(into)
    AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False).save_pretrained(
        into
    )

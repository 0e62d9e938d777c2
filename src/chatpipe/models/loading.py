"""Tokenizer, quantized base model and adapter, from the directories that artifacts are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

from chatpipe.config.schema import Quantization
from chatpipe.errors import ModelError
from chatpipe.kernels.dequantize import dequantize, dequantize_if_it_fits
from chatpipe.models.base_checks import base_config, check_base, check_tokenizer
from chatpipe.models.devices import compute_dtype, device
from chatpipe.models.finite_weights import check_finite
from chatpipe.models.library_messages import first_line
from chatpipe.models.weight_checks import report_faults
from chatpipe.sources.base_files import json_faults

LOG = logging.getLogger(__name__)
_ODD_TEXT = "a 1\n\té☃漢"  # for tokenizers that fail at the first character they do not have


def load_tokenizer(path: Path) -> Any:
    """The model's tokenizer; ModelError where it cannot be loaded, has no EOS, which a response
    must end with, or does not belong to the weights."""
    faults = json_faults(path)
    if faults:
        raise ModelError(" ".join(faults))
    config = base_config(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer(_ODD_TEXT, add_special_tokens=False, split_special_tokens=True)
    except BaseException as error:  # any, and a panic of the Rust library, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise ModelError(
            f"the tokenizer cannot be loaded: {first_line(error)}; take the tokenizer files that "
            "belong to the base."
        ) from error
    check_tokenizer(tokenizer, config)
    return tokenizer


def load_base(path: Path, quantization: Quantization, place: torch.device | None = None) -> Any:
    """The base model in NF4 (or in full precision), frozen, on this process's device, or there.

    ModelError where its weights are not those that its configuration asks for.
    """
    check_base(path)
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path}: an adapter lies in the base's directory, which transformers would apply; "
            "move it elsewhere."
        )
    check_finite(path)
    dtype = compute_dtype(quantization)
    config = nf4_config(quantization, dtype) if quantization.method == "nf4" else None
    model, report = AutoModelForCausalLM.from_pretrained(
        path,
        quantization_config=config,
        dtype=dtype,
        device_map={"": place or device()},
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    faults = report_faults(report)
    if faults:
        raise ModelError("the base model cannot be used: " + " ".join(faults))
    # A base may bring a repetition penalty or a number of beams of its own, which `generate` would
    # take where nothing is said of it: all models are asked in the same way.
    model.generation_config = GenerationConfig()
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def nf4_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """transformers' configuration of NF4 with products in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
    )


def load_fast_base(path: Path, quantization: Quantization, gpu_has_room: bool = False) -> Any:
    """As load_base with the same numbers; the weights are dequantized once instead of at every
    product, on a CPU where memory allows, on a GPU where that is said."""
    model = load_base(path, quantization)
    if not torch.cuda.is_available():
        return dequantize_if_it_fits(model, compute_dtype(quantization))
    return dequantize(model, compute_dtype(quantization)) if gpu_has_room else model


def load_streamed_base(path: Path, quantization: Quantization) -> Any:
    """As load_base, but the layers stay in main memory, from where they are fetched; without
    gradients."""
    from chatpipe.models.streaming import stream_base

    model = load_base(path, quantization, torch.device("cpu"))
    stream_base(model, device())
    return model

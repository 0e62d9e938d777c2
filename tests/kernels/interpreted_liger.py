"""Liger's kernels by Triton's interpreter, on a CPU: a tiny model's loss and gradients with them
and without. Prints them as JSON; `test_liger.py` reads it.

    TRITON_INTERPRET=1 python -m tests.kernels.interpreted_liger
"""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from liger_kernel.ops import rms_norm
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    Qwen3Config,
)
from triton.runtime import interpreter

from chatpipe.kernels import liger
from chatpipe.kernels.lora_training import joined_products
from chatpipe.kernels.switch import recorded_kernels

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CONFIGS = {"LLaMA": LlamaConfig, "Qwen 3": Qwen3Config, "Gemma 2": Gemma2Config}
IDS = torch.arange(3, 27).reshape(2, 12)


def mend_interpreter() -> None:
    """It passes floats on as Python's, which have no type to be cast from, and lacks rsqrt."""
    convert = interpreter._implicit_cvt

    def converted(argument: Any) -> Any:
        if isinstance(argument, float):
            handle = interpreter.TensorHandle(np.array([argument], np.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return convert(argument)

    interpreter._implicit_cvt = converted
    rms_norm.rsqrt = lambda x: 1.0 / tl.sqrt(x)


def model(config: Any) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config(**SHAPE), attn_implementation="eager")
    for name, weight in base.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    return adapted.train()


def loss_and_gradients(adapted: Any) -> tuple[float, torch.Tensor]:
    adapted.zero_grad()
    with joined_products(adapted):
        loss = adapted(input_ids=IDS, labels=IDS).loss
        loss.backward()
    gradients = [weight.grad.flatten() for weight in adapted.parameters() if weight.requires_grad]
    return loss.item(), torch.cat(gradients)


def compared(config: Any) -> dict[str, Any]:
    """The relative distances of loss and gradients from the plain path's, and the calls of each of
    Liger's functions."""
    adapted = model(config)
    loss, gradients = loss_and_gradients(adapted)
    calls = {
        name: mock.Mock(wraps=getattr(liger, name)) for name in ("_norm", "_gated", "_rotated")
    }
    with (
        mock.patch.multiple(liger, _is_on_gpu=lambda _: True, **calls),
        recorded_kernels() as kernels,
        liger.liger_layers(adapted),
    ):
        of_liger = loss_and_gradients(adapted)
    again = loss_and_gradients(adapted)
    return {
        "loss": abs(of_liger[0] - loss) / loss,
        "gradients": float((of_liger[1] - gradients).norm() / gradients.norm()),
        "calls": {name: function.call_count for name, function in calls.items()},
        "ran": sorted(kernels.ran),
        "is_restored": again[0] == loss and torch.equal(again[1], gradients),
    }


if __name__ == "__main__":
    mend_interpreter()
    print(json.dumps({name: compared(config) for name, config in CONFIGS.items()}))

"""Adapters of random weights, which cost what trained ones do."""

from __future__ import annotations

from typing import Any

import torch
from peft import get_peft_model

from chatpipe.config.schema import Lora
from chatpipe.models.lora import lora_config


def with_adapters(model: Any, count: int) -> tuple[Any, list[str | None]]:
    """The model with so many adapters on it, the first one on, and the names of all models: None
    is the base."""
    if not count:
        return model, [None]
    torch.manual_seed(0)  # A is drawn where an adapter is made: the same in every contender
    names = [f"random-{number}" for number in range(count)]
    adapted = get_peft_model(model, lora_config(Lora()), adapter_name=names[0])
    for name in names[1:]:
        adapted.add_adapter(name, lora_config(Lora()))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    return adapted.eval(), [None, *names]

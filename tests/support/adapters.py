"""Adapters with random weights: each makes something else of the same base, without a training."""

from pathlib import Path
from typing import Any, ClassVar

import torch

from chatpipe.config.schema import Lora
from chatpipe.store.artifact import Artifact, Request


class RandomAdapter(Request):
    """An adapter of that shape on that base, every weight drawn."""

    kind: ClassVar[str] = "adapter"
    version: ClassVar[int] = 0

    base: Artifact
    seed: int
    lora: Lora = Lora(rank=4, alpha=8)

    def build(self, into: Path) -> dict[str, Any]:
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM

        from chatpipe.models.lora import lora_config

        base = AutoModelForCausalLM.from_pretrained(self.base.path, dtype=torch.float32)
        model = get_peft_model(base, lora_config(self.lora))
        draw_weights(model, self.seed)
        model.save_pretrained(into)
        return {}


def draw_weights(model: Any, seed: int) -> None:
    """Give all adapters of that model random weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.1)

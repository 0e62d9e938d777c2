"""A model's shapes without its weights: the real classes, built on torch's meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.config.schema import Lora
from chatpipe.errors import ConfigError, ModelError
from chatpipe.models.base_checks import base_config
from chatpipe.models.library_messages import first_line
from chatpipe.models.lora_targets import target_faults
from chatpipe.models.positions import positions_of


class Shapes(BaseModel):
    """What memory and time depend on; counts are of parameters, sizes of elements."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    parameters: int  # all of the base, tied ones once
    linear_parameters: int  # weights of the layers that NF4 quantizes
    head_parameters: int  # weights of the output layer, which may be tied to the embedding
    largest_linear: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int  # as many as heads, or fewer that several of them share
    head_size: int
    vocabulary: int
    positions: int | None  # tokens that the position encoding was made for
    lora_parameters: int
    lora_modules: int
    lora_inputs: int  # Σ in_features of the adapted layers: what a token leaves for backward
    lora_joined_inputs: (
        int  # the same, once for layers that read the same input (kernels/lora_training.py)
    )
    packing_fault: str | None = None  # why its rows are padded instead of packed
    sharing_fault: str | None = None  # why its trainings do not share passes

    @property
    def attention(self) -> int:
        """Width of the queries: heads × head size."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of the keys, and of the values: key heads × head size."""
        return self.key_heads * self.head_size


def shapes_of(directory: Path, lora: Lora) -> Shapes:
    """The shapes of the model whose config.json is in `directory`, with that adapter on it.

    ConfigError where a name of target_modules is not one of its linear layers.
    """
    return shapes_of_config(base_config(directory), lora)


def shapes_of_config(config: Any, lora: Lora) -> Shapes:
    """As `shapes_of`, from a transformers configuration."""
    import torch
    from peft.tuners.lora import LoraLayer

    from chatpipe.kernels.lora_training import joined_layers
    from chatpipe.models.concurrency import sharing_fault
    from chatpipe.packing.model_check import packing_fault_without_weights

    model = model_without_weights(config)
    packing_fault = packing_fault_without_weights(model)
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    weights = [module.weight.numel() for module in linear.values()]
    base = sum(parameter.numel() for parameter in model.parameters())
    tuned = _adapted(model, lora)
    inputs = [m.in_features for m in tuned.modules() if isinstance(m, LoraLayer)]
    text = config.get_text_config()
    heads = text.num_attention_heads
    return Shapes(
        architecture=type(model).__name__,
        parameters=base,
        linear_parameters=sum(weights),
        head_parameters=head.weight.numel() if head is not None else 0,
        largest_linear=max(weights, default=0),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        heads=heads,
        key_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        positions=positions_of(config),
        lora_parameters=sum(p.numel() for n, p in tuned.named_parameters() if "lora_" in n),
        lora_modules=len(inputs),
        lora_inputs=sum(inputs),
        lora_joined_inputs=sum(group[0].in_features for group in joined_layers(tuned)),
        packing_fault=packing_fault,
        sharing_fault=sharing_fault(model),
    )


def model_without_weights(config: Any) -> Any:
    """The model of a transformers configuration, on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a model's class makes of sizes it cannot use
        raise ModelError(
            f"no model can be built of config.json: {first_line(error)}; mend or replace it."
        ) from error


def _adapted(model: Any, lora: Lora) -> Any:
    """The model with that adapter on it."""
    from peft import get_peft_model

    from chatpipe.models.lora import lora_config

    faults = target_faults(model, lora)
    if faults:
        raise ConfigError(faults)
    try:
        config = lora_config(lora, model.config.model_type)
        return get_peft_model(model, config, low_cpu_mem_usage=True)
    except ValueError as error:
        raise ConfigError([f"lora.target_modules: {first_line(error)}"]) from None

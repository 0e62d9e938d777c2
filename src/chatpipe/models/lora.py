"""LoRA adapters by peft: their configuration, and a model with a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatpipe.config.schema import Lora
from chatpipe.errors import ConfigError
from chatpipe.models.lora_targets import target_faults

if TYPE_CHECKING:
    pass
# Mamba's kernels read the weight of the output projection past the layer, and past an adapter on
# it: peft refuses it for these types of models.
MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
MAMBA_SPARED = ["out_proj"]


def with_adapter(model: Any, lora: Lora) -> Any:
    """The base model with a fresh adapter on it, to be trained."""
    import torch
    from peft import get_peft_model

    from chatpipe.kernels.sparse_dropout import use_sparse_dropout

    faults = target_faults(model, lora)
    if faults:
        raise ConfigError(faults)
    try:
        adapted = get_peft_model(model, lora_config(lora, model.config.model_type))
    except ValueError as error:  # peft names the modules that it did not find
        raise ConfigError([f"lora.target_modules: {error}"]) from error
    if not torch.cuda.is_available():
        use_sparse_dropout(adapted)
    return adapted


def lora_config(lora: Lora, model_type: str = "") -> Any:
    """The adapter's shape as peft knows it, on a base of that type (its configuration's)."""
    from peft import LoraConfig

    modules = lora.target_modules
    spared = MAMBA_SPARED if modules == "all-linear" and model_type in MAMBA_TYPES else None
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        exclude_modules=spared,
        task_type="CAUSAL_LM",
    )

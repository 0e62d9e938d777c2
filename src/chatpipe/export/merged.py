"""A base with the adapter added to its weights, as one model in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from chatpipe.config.schema import Quantization
from chatpipe.errors import ExportError
from chatpipe.export.gguf_files import LoraTensor
from chatpipe.kernels.dequantize import dequantize
from chatpipe.models.loading import load_base

# Settings of adapters that are more than a change of weights; and more than a product B A.
_NOT_MERGED = ("modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias")
_NO_PRODUCT = (*_NOT_MERGED, "use_dora")


def merged_model(base: Path, adapter: Path, quantization: Quantization) -> Any:
    """The base as it was trained against (its NF4 weights dequantized), or with
    no quantization as it was published, and the adapter's product on top; on the CPU."""
    model = adapted_model(base, adapter, quantization)
    check_adapter_kind(model, _NOT_MERGED)
    return model.merge_and_unload(safe_merge=True)


def adapted_model(base: Path, adapter: Path, quantization: Quantization) -> Any:
    """As `merged_model`, with the adapter still beside the base's weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(_float_base(base, quantization), adapter).eval()


def _float_base(base: Path, quantization: Quantization) -> Any:
    model = dequantize(load_base(base, quantization), torch.float32)
    torch.nn.Module.to(model, "cpu", torch.float32)  # transformers' own refuses quantized models
    # What transformers marks a quantized model by, which it would neither cast nor save.
    for marked, name in (
        (model, "quantization_method"),
        (model, "hf_quantizer"),
        (model.config, "quantization_config"),
    ):
        if hasattr(marked, name):
            delattr(marked, name)
    model.is_quantized = model.is_loaded_in_4bit = False
    return model


def check_adapter_kind(model: Any, refused: Sequence[str] = _NO_PRODUCT) -> None:
    """ExportError where the adapter has one of these settings, which are more than a product B A on
    layers, or biases."""
    config = model.peft_config[model.active_adapter]
    for setting in refused:
        if getattr(config, setting, None):
            raise ExportError(
                f"the adapter has {setting}, which is not written here; merge it with peft itself."
            )
    if config.bias != "none":
        raise ExportError(
            f"the adapter has biases (bias: {config.bias}), which are not written here; merge it "
            "with peft itself."
        )


def lora_tensors(model: Any) -> Iterator[LoraTensor]:
    """Yield the adapter's tensors by the layer that they are on, named as in the base."""
    check_adapter_kind(model)
    adapter = model.active_adapter
    prefix = "base_model.model."
    for name, layer in model.named_modules():
        if adapter in getattr(layer, "lora_embedding_A", {}):
            raise ExportError(f"{name}: LoRA on an embedding is not written as GGUF here.")
        if adapter not in getattr(layer, "lora_A", {}):
            continue
        yield LoraTensor(
            layer=name.removeprefix(prefix),
            a=layer.lora_A[adapter].weight.detach(),
            b=layer.lora_B[adapter].weight.detach(),
            scale=float(layer.scaling[adapter]),
        )


def float_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a model without an adapter, by transformers' names."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights below an adapter, by transformers' names."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }

"""The tensors of an adapter that was trained elsewhere, compared with the layers of its base."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from chatpipe.models.base_checks import base_config
from chatpipe.models.library_messages import first_line, quiet_transformers
from chatpipe.models.shapes import model_without_weights
from chatpipe.sources.base_files import TensorHeader
from chatpipe.training.adapter_files import CONFIG, WEIGHTS
from chatpipe.utils.sentences import listed

_PREFIX = "base_model.model."
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_LORA = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)\b")


def tensor_faults(
    config: dict[str, Any], tensors: dict[str, TensorHeader], base: Path
) -> list[str]:
    """How the tensors differ from those that peft has for that configuration on that base; no
    weight is read."""
    odd = sorted(name for name, header in tensors.items() if header.dtype not in _FLOATS)
    if odd:
        return [
            f"{WEIGHTS}: {odd[0]} is {tensors[odd[0]].dtype}; weights must be F64, F32, F16 or "
            "BF16: save the adapter again in one of these."
        ]
    whole = sorted(name for name in tensors if not _LORA.search(name))
    if whole:
        return [_whole_layers(whole)]
    try:
        expected = _expected(config, base)
    except (ValueError, TypeError) as error:  # peft names the modules that it did not find
        return [f"{CONFIG}: {first_line(error)}; take the adapter's own base, or mend the file."]
    missing = sorted(_layer(name) for name in expected.keys() - tensors.keys())
    unexpected = sorted(_layer(name) for name in tensors.keys() - expected.keys())
    faults = []
    if unexpected:
        faults.append(
            f"{WEIGHTS}: holds {listed(unexpected, 2)}, for which the base has no layer or "
            f"{CONFIG} no place; take the adapter's own base, and both files of one adapter."
        )
    if missing:
        faults.append(
            f"{WEIGHTS}: lacks {listed(missing, 2)}, which {CONFIG} asks for on this base; take "
            "the adapter's own base, and both files of one adapter."
        )
    for name in sorted(expected.keys() & tensors.keys()):
        if expected[name] != tensors[name].shape:
            return [
                *faults,
                f"{WEIGHTS}: {_layer(name)} is {_shape(tensors[name].shape)} where this base and "
                f"{CONFIG} have {_shape(expected[name])}; take the adapter's own base, and both "
                "files of one adapter.",
            ]
    return faults


def value_faults(weights: Path) -> list[str]:
    """What is wrong with the numbers: one that is not finite, or an adapter that is all zero."""
    import torch
    from safetensors import safe_open

    changes = False
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 — not a mapping
            tensor = file.get_tensor(name)
            if not bool(torch.isfinite(tensor).all()):
                return [
                    f"{WEIGHTS}: {_layer(name)} holds NaN or infinity; take an earlier checkpoint."
                ]
            changes |= ".lora_A" not in name and bool(tensor.any())
    if changes:
        return []
    return [f"{WEIGHTS}: every B is zero, so it changes nothing; take an adapter that was trained."]


def _expected(config: dict[str, Any], base: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that peft saves of such an adapter on that base."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    known = {field.name for field in dataclasses.fields(LoraConfig)} - {"runtime_config"}
    settings = {name: value for name, value in config.items() if name in known}
    model = model_without_weights(base_config(base))
    # Without the base's name, which peft would look up on the hub.
    plain = {"init_lora_weights": True, "base_model_name_or_path": None, "eva_config": None}
    with quiet_transformers():
        adapted = get_peft_model(model, LoraConfig(**{**settings, **plain}), low_cpu_mem_usage=True)
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _whole_layers(names: list[str]) -> str:
    """The sentence on weights of the base that the file holds."""
    shown = listed([_layer(name) for name in names], 2)
    if any("embed" in name or "lm_head" in name for name in names):
        return (
            f"{WEIGHTS}: holds {shown}, as peft saves them of a vocabulary that was resized or of "
            "layers that LoRA is on; if they are the base's own, save the adapter again with "
            "save_pretrained(DIR, save_embedding_layers=False); else merge it into its base and "
            "name the merged model as a base."
        )
    return f"{WEIGHTS}: holds {shown}, which is no LoRA; only LoRA adapters are scored here."


def _layer(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))

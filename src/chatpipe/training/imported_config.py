"""What adapter_config.json says of an adapter that was trained elsewhere: its kind and its base."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from chatpipe.errors import AdapterError
from chatpipe.sources.base_files import read_object
from chatpipe.sources.local_paths import looks_like_hub_id
from chatpipe.training.adapter_files import CONFIG, base_name

MERGE = (
    "merge it into its base (peft's merge_and_unload, then save_pretrained) and name the merged "
    "model as a base"
)
# Settings that peft computes with and scoring here, too, whatever their values are.
_SUPPORTED = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version"),
        *("revision", "task_type", "target_modules", "exclude_modules", "fan_in_fan_out"),
        *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
        *("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_bias"),
        *("init_lora_weights", "eva_config", "megatron_core", "qalora_group_size"),
        "runtime_config",
    }
)
# Settings of adapters that are more than LoRA on layers, and what they say.
_UNSUPPORTED = {
    "modules_to_save": "whole layers were trained beside LoRA",
    "bias": "biases of the base were trained beside LoRA",
    "trainable_token_indices": "embeddings of tokens were trained beside LoRA",
    "target_parameters": "LoRA is on tensors that are no linear layers",
    "layer_replication": "layers of the base are repeated",
    "ensure_weight_tying": "an adapter of tied layers is shared",
}
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # the base stays as it is
_QUANTIZED = re.compile(r"(-(unsloth|bnb|4bit|8bit|gptq|awq|gguf))+$|\.(i?q\d\w*|f16|bf16|f32)$")


def read_config(directory: Path) -> dict[str, Any]:
    """The content of adapter_config.json; AdapterError where it holds none."""
    try:
        return read_object(directory / CONFIG)
    except ValueError as error:
        raise AdapterError(f"{directory}: {error}") from None


def config_faults(config: dict[str, Any]) -> list[str]:
    """Why an adapter of that configuration cannot be scored here."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return [f"{CONFIG}: peft_type is {kind}; only LoRA adapters are scored here."]
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        return [
            f"{CONFIG}: task_type is {config['task_type']}; take an adapter of a causal language "
            "model."
        ]
    return [*_number_faults(config), *_kind_faults(config)]


def _number_faults(config: dict[str, Any]) -> list[str]:
    faults = []
    ranks = {"r": config.get("r"), **_pattern(config, "rank_pattern")}
    for name, rank in ranks.items():
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            faults.append(f"{CONFIG}: {name} is {rank!r}, which is no rank; mend it.")
    alphas = {"lora_alpha": config.get("lora_alpha"), **_pattern(config, "alpha_pattern")}
    for name, alpha in alphas.items():
        is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not is_number or not math.isfinite(alpha):
            faults.append(f"{CONFIG}: {name} is {alpha!r}, which is no number; mend it.")
    modules = config.get("target_modules")
    is_names = isinstance(modules, list) and all(isinstance(name, str) for name in modules)
    if not modules or not (isinstance(modules, str) or is_names):
        faults.append(f"{CONFIG}: target_modules names no layers; mend it.")
    return faults


def _pattern(config: dict[str, Any], name: str) -> dict[str, Any]:
    values = config.get(name) or {}
    if not isinstance(values, dict):
        return {name: values}
    return {f"{name}.{layer}": value for layer, value in values.items()}


def _kind_faults(config: dict[str, Any]) -> list[str]:
    faults = []
    defaults = _defaults()
    for name, value in config.items():
        if name in _SUPPORTED or value == defaults.get(name) or value in (None, False, [], {}):
            continue
        reason = _UNSUPPORTED.get(name, "which is not known here, and may change what it computes")
        faults.append(f"{CONFIG}: {name} is {_short(value)}: {reason}; {MERGE}.")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        faults.append(
            f"{CONFIG}: init_lora_weights is {_short(start)}, which changes the base's weights as "
            "well; save the adapter again with peft's path_initial_model_for_weight_conversion, "
            f"which makes plain LoRA of it, or {MERGE}."
        )
    return faults


def _defaults() -> dict[str, Any]:
    from peft import LoraConfig

    plain = LoraConfig()
    return {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def base_note(
    config: dict[str, Any], base: dict[str, Any], key: str | None = None
) -> tuple[str | None, str | None]:
    """(why the base is another one than the adapter's, what could not be compared), by their names.

    base: the details of the base's artifact; key: its key, the name of its directory in a store.
    """
    named = config.get("base_model_name_or_path")
    own = base_name(base)
    if not isinstance(named, str) or not named.strip():
        return None, f"{CONFIG} names no base: that it is {own} is not known."
    if _plain(named) == _plain(own) or Path(named).name == key:
        return None, None
    if looks_like_hub_id(named) and "/" in named and base.get("source") in ("hub", "wheel"):
        return (
            f"{CONFIG}: the adapter was trained on {named}, and the base here is {own}; name that "
            "base with --base-model, or add --same-base if this is the same one under another name."
        ), None
    return None, f"whether the adapter's base, {named}, is {own} cannot be seen by their names."


def _plain(name: str) -> str:
    """A base's name without owner, directory, and what says how its weights are stored."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]", "", _QUANTIZED.sub("", last))

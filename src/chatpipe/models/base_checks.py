"""Whether a base model can be used as it lies there: its kind, its weights against its config, its
tokenizer against its embedding. No weights are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chatpipe.errors import ModelError
from chatpipe.models.library_messages import first_line, quiet_transformers
from chatpipe.models.weight_checks import weight_faults
from chatpipe.sources.base_files import (
    CONFIG,
    json_faults,
    read_object,
    read_weights,
)
from chatpipe.tokenization.text_encoder import TextEncoder

GENERATION = "generation_config.json"
_OTHER_HEADS = re.compile(
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|MaskedLM|"
    r"NextSentencePrediction|ImageClassification|RewardModel)$|RewardModel$"
)


def check_base(directory: Path) -> None:
    """ModelError with everything that is wrong with the base in that directory."""
    faults = base_faults(directory)
    if faults:
        raise ModelError("the base model cannot be used: " + " ".join(faults))


def base_faults(directory: Path) -> list[str]:
    """Sentences on what is wrong with the base: its files, its kind, its weights."""
    faults = json_faults(directory)
    if faults:
        return faults
    try:
        config = base_config(directory)
    except ModelError as error:
        return [str(error)]
    faults = kind_faults(config) or _generation_faults(directory)
    if faults:
        return faults
    weights = read_weights(directory)
    if weights.faults or not weights.tensors:  # none at all: only small files are here yet
        return weights.faults
    return weight_faults(config, weights.tensors)


def base_config(directory: Path) -> Any:
    """transformers' configuration of the base; ModelError where there is none that it knows."""
    from transformers import CONFIG_MAPPING, AutoConfig

    try:
        content = read_object(directory / CONFIG)
    except (ValueError, OSError) as error:
        raise ModelError(str(error)) from None
    model_type = content.get("model_type")
    own_code = "auto_map" in content
    if not isinstance(model_type, str):
        raise ModelError(f"{CONFIG}: names no model_type, so its architecture is not known.")
    if model_type not in CONFIG_MAPPING:
        reason = (
            "the model brings code of its own, which is never run here"
            if own_code
            else "this version of transformers does not know it"
        )
        raise ModelError(f"{CONFIG}: model_type {model_type!r}: {reason}; take another base.")
    names = content.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{CONFIG}: architectures is no list of names.")
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # whatever a configuration class makes of values it cannot use
        raise ModelError(f"{CONFIG}: cannot be used: {first_line(error)}") from error


def kind_faults(config: Any) -> list[str]:
    """Why a model of that configuration is no causal language model in full precision."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    kind = config.model_type
    method = _quantization(config)
    if method:
        return [
            f"{CONFIG}: the base is quantized already ({method}); take the original weights, which "
            "are quantized here as quantization.method says."
        ]
    if getattr(config, "is_encoder_decoder", False):
        return [f"{CONFIG}: {kind} is an encoder and a decoder; take a causal language model."]
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or kind == "bert-generation"
    if masked and not getattr(config, "is_decoder", False):
        return [f"{CONFIG}: {kind} is an encoder, which sees what follows; take a causal model."]
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return [f"{CONFIG}: {kind} is no causal language model; take another base."]
    if getattr(config, "return_dict", True) is not True:
        return [f"{CONFIG}: return_dict is {config.return_dict}, which it must not be; remove it."]
    odd = _odd_values(config)
    if odd:
        return [f"{CONFIG}: {odd}; mend or replace it."]
    heads = [name for name in config.architectures or () if _OTHER_HEADS.search(name)]
    if heads:
        return [f"{CONFIG}: {heads[0]} has another head than a language model's."]
    return _class_faults(config)


def _class_faults(config: Any) -> list[str]:
    """Why its class and its model_type are not of one model. A Gemma of Llama's weights, which
    have the same names and sizes, is loaded without a word, and computes something else."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = str(config.model_type)
    for name in config.architectures or ():
        kinds = {key for key, value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if value == name}
        if kinds and not any(_family(kind) == _family(other) for other in kinds):
            return [
                f"{CONFIG}: model_type is {kind}, and {name} in architectures is a "
                f"{'/'.join(sorted(kinds))}; write the one that the weights are of in both."
            ]
    return []


def _family(model_type: str) -> str:
    """Of `gemma3_text` and `gemma3` the same: a model and its part for text."""
    return model_type.partition("_")[0]


def _odd_values(config: Any) -> str | None:
    """A value that transformers takes, and that fails when the model is built or trained."""
    text = config.get_text_config()
    rows, padding = getattr(text, "vocab_size", None), getattr(text, "pad_token_id", None)
    if isinstance(rows, int) and isinstance(padding, int) and not -rows <= padding < rows:
        return f"pad_token_id is {padding}, the embedding has {rows} rows"
    for name, value in vars(text).items():
        share = name.endswith(("dropout", "pdrop")) and isinstance(value, int | float)
        if share and not 0 <= value <= 1:
            return f"{name} is {value}, which is no share from 0 to 1"
    return None


def _generation_faults(directory: Path) -> list[str]:
    """Why transformers cannot read the base's settings of generation, which it does at load."""
    from transformers import GenerationConfig

    if not (directory / GENERATION).is_file():
        return []
    try:
        with quiet_transformers():
            GenerationConfig.from_pretrained(directory)
    except Exception as error:  # whatever it makes of values it cannot use
        return [
            f"{GENERATION}: cannot be used: {first_line(error)}; remove the file: generation is "
            "asked for here in the variant."
        ]
    return []


def _quantization(config: Any) -> str | None:
    for part in (config, config.get_text_config()):
        for name in ("quantization_config", "compression_config"):
            settings = getattr(part, name, None)
            if settings:
                if not isinstance(settings, dict) and not hasattr(settings, "to_dict"):
                    return "unknown method"
                plain = settings if isinstance(settings, dict) else settings.to_dict()
                return str(plain.get("quant_method", "unknown method"))
    return None


def check_tokenizer(tokenizer: Any, config: Any) -> None:
    """ModelError where the tokenizer has no EOS, or gives ids that the embedding has no row for."""
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no EOS token, so a model would never stop.")
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is None:
        return
    control = set(TextEncoder(tokenizer).control.values())
    needed = {tokenizer.eos_token: tokenizer.eos_token_id}
    needed |= {t: int(n) for t, n in tokenizer.get_vocab().items() if n not in control}
    token = max(needed, key=lambda name: needed[name])
    if needed[token] >= rows:
        raise ModelError(
            f"the tokenizer gives ids up to {needed[token]} ({token!r}), the embedding has {rows} "
            "rows; take the tokenizer that belongs to the weights."
        )

"""Whether a base model can be used as it lies there: its kind, its weights against its config, its
tokenizer against its embedding. No weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatpipe.base_files import (
    CONFIG,
    TensorHeader,
    json_faults,
    listed,
    read_object,
    read_weights,
)
from chatpipe.errors import ModelError
from chatpipe.text_encoding import TextEncoder

# Constants that older versions of libraries saved with the weights, and that models make anew.
_CONSTANTS = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids|rope\.freqs)$"
)
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
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
    faults = kind_faults(config)
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
    heads = [name for name in config.architectures or () if _OTHER_HEADS.search(name)]
    if heads:
        return [f"{CONFIG}: {heads[0]} has another head than a language model's."]
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


def weight_faults(config: Any, tensors: dict[str, TensorHeader]) -> list[str]:
    """How tensors of those shapes differ from what the model of that configuration has.

    transformers itself takes them over, on the meta device: prefixes, fused experts and tied heads
    are as it has them.
    """
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    quantized = [name for name, header in tensors.items() if header.dtype[:2] in ("F8", "F4", "F6")]
    if quantized:
        dtype = tensors[quantized[0]].dtype
        return [f"{quantized[0]}: is {dtype}, so the base is quantized already; take the original."]
    state = {
        name: torch.empty(
            header.shape, dtype=getattr(torch, _FLOATS.get(header.dtype, "int64")), device="meta"
        )
        for name, header in tensors.items()
    }
    try:
        with _quiet():
            _, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                None,
                config=config,
                state_dict=state,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a model's class makes of sizes it cannot use
        return [f"the weights do not fit {CONFIG}: {first_line(error)}"]
    return report_faults(report)


def report_faults(report: dict[str, Any]) -> list[str]:
    """Sentences on what transformers' loading info says is not as the configuration has it."""
    missing = sorted(report["missing_keys"])
    unexpected = sorted(n for n in report["unexpected_keys"] if not _CONSTANTS.search(n))
    prefix = _prefix(missing, unexpected)
    if prefix:
        return [
            f"the weights' names begin with {prefix!r}, as a wrapper saved them; save the model "
            "itself with save_pretrained (an adapter merged first)."
        ]
    faults = []
    if missing:
        faults.append(
            f"the weights lack {listed(missing)}, which {CONFIG} asks for and which would be drawn "
            "at random."
        )
    if unexpected:
        faults.append(f"the weights hold {listed(unexpected)}, which {CONFIG} has no place for.")
    different = sorted(report["mismatched_keys"])
    if different:
        name, shape, expected = different[0]
        more = f" (and {len(different) - 1:,} more)" if len(different) > 1 else ""
        faults.append(f"{name} is {_shape(shape)} where {CONFIG} says {_shape(expected)}{more}.")
    return faults


def _shape(shape: Any) -> str:
    return " × ".join(str(int(size)) for size in shape)


def _prefix(missing: list[str], unexpected: list[str]) -> str | None:
    """What stands before all names of missing tensors in those that were not expected."""
    if not missing or not unexpected:
        return None
    ends = [name for name in unexpected if name.endswith("." + missing[0])]
    prefix = ends[0].removesuffix(missing[0]) if ends else None
    whole = prefix and all(prefix + name in set(unexpected) for name in missing)
    return prefix if whole else None


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


def first_line(error: BaseException) -> str:
    """The first sentence of another library's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own table and bar of what it loads: the report is read here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(50)
    try:
        yield
    finally:
        logging.set_verbosity(level)

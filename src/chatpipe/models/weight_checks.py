"""The tensors of a base's weight files, compared with those that its configuration has.

Only the headers of the files are read.
"""

from __future__ import annotations

import re
from typing import Any

from chatpipe.models.library_messages import first_line, quiet_transformers
from chatpipe.sources.base_files import CONFIG, TensorHeader
from chatpipe.utils.sentences import listed

# Constants that older versions of libraries saved with the weights, and that models make anew.
_CONSTANTS = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids|rope\.freqs)$"
)
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_WRAPPER = re.compile(
    r"(^|\.)(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer|"
    r"lora_[AB]|lora_embedding_[AB]|modules_to_save|original_module)\."
)
SAVE_ITSELF = "save the model itself with save_pretrained (an adapter merged first)"
TAKE_BOTH = f"take weights and {CONFIG} of one causal language model"


def weight_faults(config: Any, tensors: dict[str, TensorHeader]) -> list[str]:
    """How tensors of those shapes differ from what the model of that configuration has.

    transformers itself takes them over, on the meta device: prefixes, fused experts and tied heads
    are as it has them.
    """
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    others = [name for name, header in tensors.items() if _is_no_weight(name, header)]
    if others:
        return [
            f"{listed(others, 1)}: is {tensors[others[0]].dtype}, and weights must be F64, F32, "
            "F16 or BF16; take the original weights."
        ]
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(tensors):  # nothing is built of so many
        return [
            f"{CONFIG} says {layers:,} layers, the weights hold {len(tensors):,} tensors; "
            f"{TAKE_BOTH}."
        ]
    state = {
        name: torch.empty(
            header.shape, dtype=getattr(torch, _FLOATS.get(header.dtype, "int64")), device="meta"
        )
        for name, header in tensors.items()
    }
    try:
        with quiet_transformers():
            _, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                None,
                config=config,
                state_dict=state,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a model's class makes of sizes it cannot use
        return [f"no model can be built of {CONFIG}: {first_line(error)}; mend or replace it."]
    return report_faults(report)


def _is_no_weight(name: str, header: TensorHeader) -> bool:
    """Integers, complex numbers and types of 8 bits or fewer, but for a model's constants."""
    constant = _CONSTANTS.search(name) or not name.endswith((".weight", ".bias"))
    return header.dtype not in _FLOATS and (header.dtype.startswith("F") or not constant)


def report_faults(report: dict[str, Any]) -> list[str]:
    """Sentences on what transformers' loading info says is not as the configuration has it."""
    missing = sorted(report["missing_keys"])
    unexpected = sorted(n for n in report["unexpected_keys"] if not _CONSTANTS.search(n))
    prefix = _prefix(missing, unexpected)
    if prefix:
        return [
            f"the weights' names begin with {prefix!r}, as a wrapper saved them; {SAVE_ITSELF}."
        ]
    wrapped = [name for name in unexpected if _WRAPPER.search(name)]
    if wrapped:
        return [
            f"the weights hold {listed(wrapped, 1)}, named as a wrapper of the model (peft, "
            f"torch.compile, FSDP) names it; {SAVE_ITSELF}."
        ]
    faults = []
    if missing:
        faults.append(
            f"the weights lack {listed(missing)}, which {CONFIG} asks for and which would be drawn "
            f"at random; {TAKE_BOTH}."
        )
    if unexpected:
        faults.append(
            f"the weights hold {listed(unexpected)}, which {CONFIG} has no place for; {TAKE_BOTH}."
        )
    different = sorted(report["mismatched_keys"])
    if different:
        name, shape, expected = different[0]
        more = f" (and {len(different) - 1:,} more)" if len(different) > 1 else ""
        faults.append(
            f"{name} is {_shape(shape)} where {CONFIG} says {_shape(expected)}{more}; {TAKE_BOTH}."
        )
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

"""Architectures that are written as GGUF: llama.cpp's settings, and how it has the weights.

Each is compared with transformers on small random models (`tests/export/test_gguf.py`). A setting
that llama.cpp computes in another way is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatpipe.errors import ExportError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter

ELSEWHERE = (
    "export it with `--to merged` and convert that directory with llama.cpp's "
    "convert_hf_to_gguf.py, which knows more architectures"
)


@dataclass(frozen=True)
class Architecture:
    """An architecture as llama.cpp has it.

    name: llama.cpp's; permutes: whether it pairs the numbers that rotary positions turn otherwise
    than transformers; norm_shift: what transformers adds to the weight of a norm; settings: writes
    what only this architecture has.
    """

    name: str
    permutes: bool = False
    norm_shift: float = 0.0
    settings: Callable[[GGUFWriter, Any], None] | None = None


def architecture_of(config: Any) -> Architecture:
    """The architecture of a base; ExportError where it cannot be written, or has a setting that
    cannot."""
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        written = ", ".join(ARCHITECTURES)
        raise ExportError(
            f"{config.model_type}: not an architecture that is written as GGUF here ({written}); "
            f"{ELSEWHERE}."
        )
    faults = [*_faults(config)]
    if faults:
        raise ExportError(f"{config.model_type}: {faults[0]}; {ELSEWHERE}.")
    return architecture


def write_settings(writer: GGUFWriter, config: Any, architecture: Architecture) -> None:
    """Write the sizes and positions of a model."""
    writer.add_context_length(_context(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_vocab_size(config.vocab_size)
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if architecture.settings:
        architecture.settings(writer, config)


def extra_tensors(config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that transformers computes from the configuration: factors of the frequencies of
    rotary positions, as Llama 3.1 has them (`_compute_llama3_parameters` of transformers)."""
    import torch

    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return
    size = head_size(config)
    frequencies = float(rope["rope_theta"]) ** -(torch.arange(0, size, 2).double() / size)
    wavelengths = 2 * math.pi / frequencies
    factor, low, high = (
        float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    original = float(rope["original_max_position_embeddings"])
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(wavelengths > original / low, torch.full_like(between, factor), between)
    factors = torch.where(wavelengths < original / high, torch.ones_like(factors), factors)
    yield "rope_freqs.weight", factors.float()


def as_llama_cpp(
    name: str, tensor: torch.Tensor, config: Any, architecture: Architecture
) -> torch.Tensor:
    """A weight of transformers' model as llama.cpp has it; name: transformers' name. Of LoRA's B
    the same rows are permuted."""
    if architecture.norm_shift and name.endswith("norm.weight"):
        return tensor + architecture.norm_shift
    if architecture.permutes:
        if ".q_proj." in name:
            return permuted(tensor, config.num_attention_heads)
        if ".k_proj." in name:
            return permuted(tensor, config.num_key_value_heads)
    return tensor


def permuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (heads × size) in llama.cpp's order for rotary positions: transformers turns the numbers
    i and i + size / 2 of a head together, llama.cpp's `llama` the neighbours 2i and 2i + 1."""
    pairs = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def head_size(config: Any) -> int:
    """Numbers of a query of one head."""
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def _context(config: Any) -> int:
    """Tokens; no more than the window of a model all of whose layers see a window, because
    llama.cpp's `llama` and `qwen` know none."""
    longest = int(config.max_position_embeddings)
    if config.model_type in _OWN_WINDOW:
        return longest
    window = getattr(config, "sliding_window", None)
    uses = getattr(config, "use_sliding_window", True)
    return min(longest, int(window)) if window and uses else longest


def _rope(config: Any) -> dict[str, Any]:
    """The rotary positions, of layers that see everything."""
    parameters = dict(config.rope_parameters)
    return dict(parameters.get("full_attention", parameters))


def _faults(config: Any) -> Iterator[str]:
    rope = _rope(config)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        yield f"its positions are scaled by {kind!r}, which is not written here"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        yield "its positions turn a part of each head, which is not written here"
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", "")
    expected = "gelu_pytorch_tanh" if config.model_type in _OWN_WINDOW else "silu"
    if activation != expected:
        yield f"its activation is {activation}, llama.cpp's is {expected}"
    if getattr(config, "mlp_bias", False):
        yield "its MLP has biases, which are not written here"
    if config.model_type in _OWN_WINDOW:
        if list(config.layer_types) != _expected_layers(config):
            yield "its layers that see a window are others than llama.cpp has it"
        scalar = getattr(config, "query_pre_attn_scalar", None)
        if scalar is not None and scalar != head_size(config):
            yield (
                f"query_pre_attn_scalar is {scalar}, and llama.cpp divides by the head's size, "
                f"{head_size(config)}"
            )


def _expected_layers(config: Any) -> list[str]:
    """The layers of Gemma 2 and 3 in the order in which llama.cpp has them."""
    every = 2 if config.model_type == "gemma2" else 6
    return [
        "sliding_attention" if (layer + 1) % every else "full_attention"
        for layer in range(config.num_hidden_layers)
    ]


def _gemma2(writer: GGUFWriter, config: Any) -> None:
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def _gemma3(writer: GGUFWriter, config: Any) -> None:
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)
    local = dict(config.rope_parameters).get("sliding_attention")
    if local:
        writer.add_rope_freq_base_swa(float(local["rope_theta"]))


_OWN_WINDOW = frozenset({"gemma2", "gemma3_text"})
# By transformers' model_type.
ARCHITECTURES = {
    "llama": Architecture("llama", permutes=True),
    "mistral": Architecture("llama", permutes=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", norm_shift=1.0, settings=_gemma2),
    "gemma3_text": Architecture("gemma3", norm_shift=1.0, settings=_gemma3),
}

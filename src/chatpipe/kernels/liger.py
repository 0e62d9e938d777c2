"""RMS norms, rotary positions and gated units in one kernel each, forward and backward, on GPUs: by
Liger (https://github.com/linkedin/Liger-Kernel, the extra `gpu`).

torch computes each of them in several passes over all hidden states: six for a norm, four for a
rotation, two for a gated unit. Only what is computed as in LLaMA is replaced: a class whose forward
pass has LLaMA's instructions (Mistral's, Qwen's, SmolLM's and others), in the type of its input.
Everything else is computed by transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from chatpipe.kernels.forwards import (
    Forward,
    Rotation,
    has_code_of,
    replaced_forwards,
    replaced_rotations,
)
from chatpipe.kernels.switch import is_enabled, ran

LIGER = "liger"
SILUS = (torch.nn.SiLU, SiLUActivation)


def is_installed() -> bool:
    """Whether Liger and Triton are."""
    return all(find_spec(name) for name in ("liger_kernel", "triton"))


@contextmanager
def liger_layers(model: torch.nn.Module) -> Iterator[None]:
    """While this lasts, the model's norms, rotations and gated units that are computed as LLaMA's
    are computed by Liger, on a GPU."""
    is_used = _is_on_gpu(next(model.parameters())) and is_enabled(LIGER) and is_installed()
    forwards = _forwards(model) if is_used else []
    if not forwards:
        yield
        return
    ran(LIGER)
    with replaced_forwards(forwards), replaced_rotations(model, _rotation):
        yield


def _is_on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cuda"


def _forwards(model: torch.nn.Module) -> list[tuple[Any, Forward]]:
    forwards: list[tuple[Any, Forward]] = []
    for module in model.modules():
        forward = type(module).forward
        if "forward" in vars(module):
            continue  # accelerate's, which fetches weights
        if has_code_of(llama.LlamaRMSNorm.forward, forward):
            forwards.append((module, partial(_norm, module)))
        elif has_code_of(llama.LlamaMLP.forward, forward) and type(module.act_fn) in SILUS:
            forwards.append((module, partial(_gated, module)))
    return forwards


def _norm(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """(..., features) → the same. The gradient gets memory of its own: it may be that of another
    sum, too, where a norm's output is added to something."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    if layer.weight.dtype is not x.dtype:  # transformers' result has the wider type
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    return LigerRMSNormFunction.apply(  # type: ignore[no-any-return]
        x, layer.weight, layer.variance_epsilon, 0.0, "llama", False
    )


def _gated(unit: Any, x: torch.Tensor) -> torch.Tensor:
    """(..., features) → the same."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    product = LigerSiLUMulFunction.apply(unit.gate_proj(x), unit.up_proj(x))
    return unit.down_proj(product)  # type: ignore[no-any-return]


def _rotation(plain: Rotation) -> Rotation | None:
    return partial(_rotated, plain) if has_code_of(llama.apply_rotary_pos_emb, plain) else None


def _rotated(
    plain: Rotation,
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """query, key (batch, heads, tokens, size); cos, sin (batch, tokens, size). Another model's may
    be in main memory."""
    from liger_kernel.ops.rope import LigerRopeFunction

    one_type = query.dtype is key.dtype is cos.dtype
    if not _is_on_gpu(query) or unsqueeze_dim != 1 or not one_type:
        return plain(query, key, cos, sin, unsqueeze_dim)
    return LigerRopeFunction.apply(query, key, cos, sin)  # type: ignore[no-any-return]

"""A 4-bit base that no single device holds: while training, each of several processes keeps a share
of it.

A layer's weights are brought together on the device when it is computed, forward and backward, by
torch's own `fully_shard`. That knows no parameter class of bitsandbytes' (the packed bytes would
come back as a plain tensor, without the constants that give them their meaning), so packed weights
and their constants become plain frozen parameters here. What is trained, the norms and the
embeddings stay whole on every device.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from chatpipe.models.linear4bit import blocks, separable_layers, separate_layers


def shard_base(model: Any, device: torch.device) -> None:
    """Share the 4-bit layers of an adapted model out among all processes, in place, and bring the
    rest of it to `device`. Each must then make as many passes, forward and backward, as the
    others."""
    base = model.get_base_model()
    _shard(base, device)
    bring(model, device)
    base.hf_device_map = {"": device}  # accelerate trains a 4-bit model only where this says it is
    # What DistributedDataParallel is told of parameters that are not its own.
    model._ddp_params_and_buffers_to_ignore = {
        name for name, weight in model.named_parameters() if isinstance(weight, DTensor)
    }


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether this process holds a share of the model's weights."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def bring(model: torch.nn.Module, device: torch.device) -> None:
    """Move what is not sharded; what is has its place already."""
    for weight in model.parameters():
        if not isinstance(weight, DTensor):
            weight.data = weight.data.to(device)
            if isinstance(weight, bnb.nn.Params4bit):  # outside the layers that are sharded
                weight.quant_state.to(device)
    for part in model.modules():
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)


def _shard(base: Any, device: torch.device) -> None:
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for layer in blocks(base):
        separate_layers(layer, device, _frozen)
        fully_shard(layer, mesh=mesh, ignored_params=_whole(layer))
    decoder = base.get_decoder()
    fully_shard(decoder, mesh=mesh, ignored_params=_whole(decoder))


def _whole(module: torch.nn.Module) -> set[torch.nn.Parameter]:
    """The parameters that are not sharded."""
    shared = {
        weight for part in separable_layers(module) for weight in (part.weight, part.constants)
    }
    return set(module.parameters()) - shared


def _frozen(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight.detach(), requires_grad=False)

"""A 4-bit base that no single device holds. While training, each of several processes keeps a share
of it; a process that scores or answers alone keeps it in main memory.

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
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor


class ShardableLinear4bit(torch.nn.Linear):
    """bitsandbytes' 4-bit layer, its weights and constants in parameters that can be sharded.

    weight: (weights / 2, 1) uint8, packed; constants: (weights / block size,), uint8 with double
    quantization, else float32.
    """

    def __init__(self, layer: Any, device: torch.device) -> None:
        torch.nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = layer.compute_dtype
        self.bias = layer.bias
        self.state = layer.weight.quant_state
        self.weight = _frozen(layer.weight.data)
        self.constants = _frozen(self.state.absmax)
        self.state.absmax = torch.empty(0)  # those of this process's share come with every forward
        self.state.to(device)
        layer.weight.module = None  # a cycle, which would keep the whole weight until it is found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in features) → (..., out features), computed in the quantization's type."""
        self.state.absmax = self.constants  # all of them are here by now
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        product: torch.Tensor = bnb.matmul_4bit(
            x.to(self.compute_dtype), self.weight, quant_state=self.state, bias=bias
        )
        return product.to(x.dtype)


def shard_base(model: Any, device: torch.device) -> None:
    """Share the 4-bit layers of an adapted model out among all processes, in place, and bring the
    rest of it to `device`. Each must then make as many passes, forward and backward, as the
    others."""
    base = model.get_base_model()
    _shard(base, device, OffloadPolicy())
    bring(model, device)
    base.hf_device_map = {"": device}  # accelerate trains a 4-bit model only where this says it is
    # What DistributedDataParallel is told of parameters that are not its own.
    model._ddp_params_and_buffers_to_ignore = {
        name for name, weight in model.named_parameters() if isinstance(weight, DTensor)
    }


def stream_base(base: Any, device: torch.device) -> None:
    """Leave the 4-bit layers in main memory, from where each is fetched when it is computed, and
    bring the rest to `device`. For a process by itself, without gradients."""
    if not distributed.is_initialized():
        alone = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group(rank=0, world_size=1, store=alone)
    if distributed.get_world_size() > 1:
        raise ValueError("a base is streamed to one process; several share it out (shard_base).")
    _shard(base, device, CPUOffloadPolicy(pin_memory=device.type == "cuda"))
    bring(base, device)
    base.hf_device_map = {"": device}


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether this process does not hold all of the model's weights on its device."""
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


def _shard(base: Any, device: torch.device, offload: OffloadPolicy) -> None:
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for layer in [part for part in base.modules() if type(part).__name__ in base._no_split_modules]:
        _make_shardable(layer, device)
        fully_shard(layer, mesh=mesh, ignored_params=_whole(layer), offload_policy=offload)
    decoder = base.get_decoder()
    fully_shard(decoder, mesh=mesh, ignored_params=_whole(decoder), offload_policy=offload)


def _make_shardable(layer: torch.nn.Module, device: torch.device) -> None:
    for name, module in list(layer.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            parent, _, attribute = name.rpartition(".")
            setattr(layer.get_submodule(parent), attribute, ShardableLinear4bit(module, device))


def _whole(module: torch.nn.Module) -> set[torch.nn.Parameter]:
    """The parameters that are not sharded."""
    shared = {
        weight
        for part in module.modules()
        if isinstance(part, ShardableLinear4bit)
        for weight in (part.weight, part.constants)
    }
    return set(module.parameters()) - shared


def _frozen(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight.detach(), requires_grad=False)

"""The Python side of the fake device: what torch.cuda answers, and where libraries do what fake
tensors cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import bitsandbytes
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from transformers import core_model_loading

from tests.gpu.streams import FakeEvent, FakeStream, current_stream, pin_memory, stream

GIB = 2**30
NAME = "Fake GPU"
# Operations that a GPU has one kernel for, and a torch without CUDA divides into others.
ONE_KERNEL = {"silu_backward": lambda gradient, x: torch.empty_like(x)}
LIBRARY = torch.library.Library("aten", "IMPL")
_STATE = torch.zeros(16, dtype=torch.uint8)  # of a random generator


@contextmanager
def fake_gpu(capability: tuple[int, int], memory: int = 80 * GIB) -> Iterator[FakeTensorMode]:
    """While this lasts, torch has one GPU of that compute capability, and tensors are fake."""
    _answer(capability, memory)
    with _fake_mode() as mode:
        yield mode


@cache
def _fake_mode() -> FakeTensorMode:
    """One for the process: bitsandbytes keeps tensors, which belong to a mode."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def patch_libraries() -> None:
    """Replace what fake tensors cannot go through; called once, before chatpipe is imported."""
    FakeTensorMode.avoid_device_init = property(lambda _: True)  # type: ignore[assignment]
    torch.nn.Module._apply = _apply  # type: ignore[assignment,method-assign]
    torch.Generator = _HostGenerator  # type: ignore[misc]
    core_model_loading._materialize_copy = _read_tensor
    torch.cuda.Stream, torch.cuda.Event = FakeStream, FakeEvent  # type: ignore[assignment,misc]
    torch.cuda.stream, torch.cuda.current_stream = stream, current_stream  # type: ignore[assignment]
    torch.Tensor.pin_memory = pin_memory  # type: ignore[method-assign,assignment]
    torch.Tensor.record_stream = lambda *_: None  # type: ignore[method-assign]
    for name, kernel in ONE_KERNEL.items():
        LIBRARY.impl(name, kernel, "CUDA")
    for module in (bitsandbytes.nn, bitsandbytes.nn.modules):
        module.Params4bit = FakeParams4bit
    assert "chatpipe.kernels.dequantize" not in sys.modules


def _answer(capability: tuple[int, int], memory: int) -> None:
    properties = SimpleNamespace(
        name=NAME,
        major=capability[0],
        minor=capability[1],
        total_memory=memory,
        multi_processor_count=132,
        warp_size=32,
        gcnArchName="",
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": NAME,
        "get_device_capability": capability,
        "get_device_properties": properties,
        "get_arch_list": ["sm_75", "sm_80", "sm_90"],
        "is_bf16_supported": capability >= (8, 0),
        "mem_get_info": (memory, memory),
        "memory_stats": {},
        "get_rng_state": _STATE,
        "get_rng_state_all": [_STATE],
    }
    answers |= dict.fromkeys(("memory_reserved", "memory_allocated", "max_memory_allocated"), 0)
    silent = ("init", "_lazy_init", "empty_cache", "set_device", "synchronize", "manual_seed")
    answers |= dict.fromkeys(silent)
    answers |= dict.fromkeys(
        ("manual_seed_all", "set_rng_state", "set_rng_state_all", "reset_peak_memory_stats")
    )
    for name, answer in answers.items():
        setattr(torch.cuda, name, _constant(answer))


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _read_tensor(
    tensor: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Read a weight from its file, which is no work for fake tensors, then move it."""
    if not isinstance(tensor, torch.Tensor):
        with _disable_current_modes():
            tensor = tensor[...]
    if device is None and dtype is None:
        return tensor  # type: ignore[no-any-return]
    return tensor.to(device=device, dtype=dtype)  # type: ignore[no-any-return]


def _apply(
    module: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> torch.nn.Module:
    """torch's own gives an old tensor a new storage, which fake tensors do not allow."""
    if recurse:
        for child in module.children():
            child._apply(function)
    for name, weight in module._parameters.items():
        if weight is not None:
            module._parameters[name] = _applied(function, weight)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


def _applied(
    function: Callable[[torch.Tensor], torch.Tensor], weight: torch.nn.Parameter
) -> torch.nn.Parameter:
    with torch.no_grad():
        new = function(weight)
    if isinstance(weight, FakeParams4bit):
        return new  # type: ignore[return-value]
    same = new is weight or (new.device, new.dtype) == (weight.device, weight.dtype)
    return weight if same else torch.nn.Parameter(new, weight.requires_grad)


class _HostGenerator(torch.Generator):
    """A generator of the fake device is the CPU's: fake tensors draw nothing from it."""

    def __new__(cls, device: Any = "cpu") -> _HostGenerator:
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        pass


# The attributes of bitsandbytes' 4-bit parameter, with their defaults.
ATTRIBUTES: dict[str, Any] = {
    "blocksize": 64,
    "compress_statistics": True,
    "quant_type": "fp4",
    "quant_storage": torch.uint8,
    "quant_state": None,
    "module": None,
    "bnb_quantized": False,
}


class _Params4bitType(type):
    """bitsandbytes makes its parameter by `_make_subclass`, which fake tensors refuse. Here it is
    a plain parameter with the same attributes, and quantized by bitsandbytes' own operation."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return hasattr(instance, "bnb_quantized")

    def __call__(
        cls, data: torch.Tensor | None = None, requires_grad: bool = False, **options: Any
    ) -> Any:
        content = torch.empty(0) if data is None else data.detach()
        parameter = torch.nn.Parameter(content, requires_grad=False)
        for name, default in ATTRIBUTES.items():
            given = options.get(name)
            setattr(parameter, name, default if given is None else given)
        parameter.to = lambda *args, **kwargs: _moved(parameter, *args, **kwargs)  # type: ignore[method-assign]
        return parameter


class FakeParams4bit(metaclass=_Params4bitType):
    """Stands for bitsandbytes.nn.Params4bit."""


def _moved(parameter: Any, *args: Any, **kwargs: Any) -> Any:
    """`Params4bit.to`: the first move to a device quantizes."""
    device, *_ = torch._C._nn._parse_to(*args, **kwargs)
    options = {name: getattr(parameter, name) for name in ATTRIBUTES}
    moved = torch.Tensor.to(parameter.detach().contiguous(), device)
    if device is None or device.type == "meta" or parameter.bnb_quantized:
        if parameter.quant_state is not None:
            parameter.quant_state.to(device)
        return FakeParams4bit(moved, **options)
    names = ("blocksize", "compress_statistics", "quant_type", "quant_storage")
    packed, state = bitsandbytes.functional.quantize_4bit(
        moved, **{name: options[name] for name in names}
    )
    if parameter.module is not None:
        parameter.module.quant_state = state
    return FakeParams4bit(packed, **{**options, "quant_state": state, "bnb_quantized": True})

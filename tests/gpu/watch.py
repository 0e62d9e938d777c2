"""Watches operations on the fake GPU: checks what the real kernels demand, and counts kernels,
bytes, products, and the waits of the host."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from tests.gpu.streams import Accesses, is_pinned

ATEN = torch.ops.aten
# Operations that launch no kernel: views, and memory that is not filled.
NO_KERNEL = frozenset(
    {
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "as_strided",
        "chunk",
        "detach",
        "device",
        "diagonal",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "lift_fresh",
        "narrow",
        "new_empty",
        "new_empty_strided",
        "permute",
        "prim_device",
        "reshape",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "unfold",
        "unsqueeze",
        "view",
    }
)
PRODUCTS = frozenset({"mm", "addmm", "addmm_", "bmm", "baddbmm"})
FUSED_ROWS = 1536  # up to so many, bitsandbytes may multiply without dequantizing the weight
# torch's FlashAttention of variable lengths; its backward pass has five products for two.
ATTENTION = {"_varlen_attn": 1.0, "_varlen_attn_backward": 2.5}
# Operations whose result has a size that depends on values: the host waits to know it.
SIZED_BY_VALUES = frozenset({"nonzero", "masked_select", "_unique2", "unique_dim"})
LIBRARIES = ("/torch/", "/bitsandbytes/", "/accelerate/", "/tests/gpu/", "/contextlib.py")
ALLOCATION = 512  # bytes that CUDA's allocator rounds up to


class GpuError(AssertionError):
    """What a GPU would refuse, or compute wrongly, and a fake tensor does not notice."""


class Call(NamedTuple):
    """A kernel, with the operations and bytes of one call: operands and results are moved once."""

    name: str
    flops: int
    moved: int


class Watch(TorchDispatchMode):
    """Above the fake mode. `kernels` are counted by operation, `syncs` by the place in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Call] = Counter()
        self.kernels: Counter[str] = Counter()
        self.products: set[str] = set()  # types of the operands
        self.syncs: Counter[str] = Counter()
        self.held = self.peak = 0
        self._storages: set[int] = set()
        self._accesses = Accesses()
        self._attention_flops = 0  # of the forward pass of the call that is watched

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        on_gpu = _on_gpu(tensors)
        name = func._schema.name.split("::")[1]
        if func is ATEN._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return self._item(args[0])
        if on_gpu and func is ATEN.equal.default:
            self._waits("equal")
            return False
        if on_gpu and func is ATEN.exponential_.default:  # its fake takes no generator
            self._count(name, on_gpu, on_gpu[:1])
            return args[0]
        if on_gpu and name in SIZED_BY_VALUES:
            self._waits(name)
        if on_gpu and name in ("index", "index_put", "_index_put_impl_") and _has_mask(args[1]):
            self._waits(f"{name} by a mask")
            if name == "index":
                return self._masked(*args)
        if on_gpu and func.namespace in ("bitsandbytes", "torch_attn"):
            check_operands(func._schema.name, args, tensors)
        if not _concerns_the_gpu(leaves):
            with _disable_current_modes():  # main memory alone: computed, and not pretended
                return func(*args, **kwargs)
        if name in ATTENTION:
            self._attention_flops = _attention_flops(name, args)
        out = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self._note(name, tensors, outputs, _is_non_blocking(name, args, kwargs))
        return out

    def _item(self, tensor: FakeTensor) -> bool | int | float:
        """A value that the host asks for: there is none, so one is made up."""
        if tensor.device.type == "cuda":
            self._waits("item")
        elif tensor.constant is not None:
            with _disable_current_modes():
                return tensor.constant.item()  # type: ignore[no-any-return]
        if tensor.dtype is torch.bool:
            return True
        return 0.0 if tensor.is_floating_point() else 1

    def _note(
        self,
        name: str,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        non_blocking: bool,
    ) -> None:
        read, written = _on_gpu(inputs), _on_gpu(outputs)
        if name in ("_to_copy", "copy_"):
            if read and len(written) < len(outputs):
                self._waits("copy to main memory")
            if written and len(read) < len(inputs):
                if not (non_blocking and is_pinned(inputs[-1])):
                    self._waits("copy from main memory")
                _keep_count(inputs[-1], written[0])
        elif written and any(part.device.type == "cpu" and part.dim() for part in inputs):
            raise GpuError(f"{name}: an operand is in main memory, at {_caller()}")
        if (read or written) and name not in NO_KERNEL:
            if race := self._accesses.race(read, written):
                raise GpuError(f"{name}: {race}, at {_caller()}")
            if name == "gemm_4bit" and _rows(read[0]) > FUSED_ROWS:
                self._count_unfused(read, written[0])
            else:
                self._count(name, read, written)
        for tensor in written:
            self._follow(tensor)

    def _count(
        self, name: str, read: Sequence[torch.Tensor], written: Sequence[torch.Tensor]
    ) -> None:
        self.kernels[name] += 1
        moved = sum(part.numel() * part.element_size() for part in (*read, *written))
        flops = 0
        if name == "gemm_4bit":
            flops = 2 * read[0].numel() * written[0].shape[-1]
        elif name in PRODUCTS:
            left, right = [part for part in read if part.dim() >= 2][-2:]
            flops = 2 * left.numel() * right.shape[-1]
            self.products.add(str(left.dtype))
        elif name in ATTENTION:
            flops = round(self._attention_flops * ATTENTION[name])
        self.calls[Call(name, flops, moved)] += 1

    def _count_unfused(self, read: Sequence[torch.Tensor], written: torch.Tensor) -> None:
        """bitsandbytes' 4-bit product of many rows: the weight is dequantized, then multiplied."""
        x, packed = read[:2]
        weights = x.shape[-1] * written.shape[-1]
        self.kernels["gemm_4bit"] += 1
        self.calls[Call("dequantize_4bit", 0, packed.nbytes + weights * x.element_size())] += 1
        moved = x.nbytes + weights * x.element_size() + written.nbytes
        self.calls[Call("mm", 2 * _rows(x) * weights, moved)] += 1
        self.products.add(str(x.dtype))

    def _masked(self, tensor: torch.Tensor, indices: Sequence[torch.Tensor]) -> torch.Tensor:
        """tensor[mask] for a mask that came from main memory, where its values are known."""
        [mask] = indices
        rows = tensor.new_empty(mask.true_count, *tensor.shape[mask.dim() :])  # type: ignore[attr-defined]
        self._count("index", [tensor, mask], [rows])
        self._follow(rows)
        return rows

    def _waits(self, operation: str) -> None:
        self.syncs[f"{operation}: {_caller()}"] += 1

    def _follow(self, tensor: torch.Tensor) -> None:
        """Add the tensor's memory to what is held until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = -(-storage.nbytes() // ALLOCATION) * ALLOCATION
        self._storages.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, key, size)

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do not count the memory of these, which were there before."""
        self._storages |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._accesses.forget(key)
        self.held -= size


def check_operands(name: str, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
    """GpuError where the CUDA kernel would refuse its operands or read past them; its fake does not
    look. The conditions are those of torch's flash_api.cpp and of bitsandbytes' kernels."""
    devices = {str(part.device) for part in tensors}
    _demand(len(devices) == 1, f"{name}: operands on {', '.join(sorted(devices))}")
    if name == "torch_attn::_varlen_attn":
        query, key, value, query_ends, key_ends = args[:5]
        _check_halves(name, (query, key, value))
        size = query.shape[-1]
        _demand(size <= 256 and size % 8 == 0, f"{name}: heads of {size}")
        for ends in (query_ends, key_ends):
            _demand(ends.dtype is torch.int32, f"{name}: ends of type {ends.dtype}")
            _demand(ends.is_contiguous() and len(ends) > 1, f"{name}: ends {tuple(ends.shape)}")
        _demand(len(query_ends) == len(key_ends), f"{name}: other numbers of ends")
    elif name == "torch_attn::_varlen_attn_backward":
        _check_halves(name, args[:5])
    elif name == "bitsandbytes::gemm_4bit":
        packed, shape, block = args[1], args[2], args[4]
        _demand(packed.is_contiguous(), f"{name}: the packed weight is not contiguous")
        bytes_held = packed.numel() * packed.element_size()
        _demand(2 * bytes_held >= shape[0] * shape[1], f"{name}: {bytes_held} bytes for {shape}")
        _demand(shape[1] % block == 0, f"{name}: {shape[1]} inputs in blocks of {block}")


def _check_halves(name: str, parts: Sequence[torch.Tensor]) -> None:
    dtypes = {part.dtype for part in parts}
    one_half = len(dtypes) == 1 and dtypes <= {torch.float16, torch.bfloat16}
    _demand(one_half, f"{name}: operands of types {sorted(map(str, dtypes))}")
    strides = {part.stride(-1) for part in parts}
    _demand(strides == {1}, f"{name}: the last dimension has strides {sorted(strides)}")


def _demand(condition: bool, sentence: str) -> None:
    if not condition:
        raise GpuError(f"{sentence}, at {_caller()}")


def _attention_flops(name: str, args: Sequence[Any]) -> int:
    """Operations of a forward pass, as if all rows were as long as the longest: two products for
    half of the scores, because attention is causal."""
    place = 0 if name == "_varlen_attn" else 1
    tokens, heads, size = args[place].shape
    longest = next(arg for arg in args[place + 3 :] if isinstance(arg, int))
    return 2 * int(tokens) * longest * int(heads) * int(size)


def _rows(tensor: torch.Tensor) -> int:
    return tensor.numel() // tensor.shape[-1]


def _has_mask(indices: Sequence[torch.Tensor | None]) -> bool:
    return any(part is not None and part.dtype is torch.bool for part in indices)


def _is_non_blocking(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a copy is one that the host need not wait for."""
    place = 2 if name == "copy_" else None
    given = args[place] if place is not None and len(args) > place else None
    return bool(kwargs.get("non_blocking", given))


def _keep_count(source: torch.Tensor, uploaded: torch.Tensor) -> None:
    """Note at a mask on the GPU how many of its values are true."""
    if source.dtype is torch.bool and not isinstance(source, FakeTensor):
        with _disable_current_modes():
            uploaded.true_count = int(source.sum())  # type: ignore[attr-defined]


def _on_gpu(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for tensor in tensors if tensor.device.type == "cuda"]


def _concerns_the_gpu(leaves: Sequence[Any]) -> bool:
    """Whether any argument is fake, on the GPU, or names it as the device of the result."""
    for leaf in leaves:
        if isinstance(leaf, FakeTensor):
            return True
        device = leaf.device if isinstance(leaf, torch.Tensor) else leaf
        if isinstance(device, torch.device) and device.type != "cpu":
            return True
    return False


def _caller() -> str:
    """The line of code outside of torch that the operation comes from."""
    frame = sys._getframe(1)
    while frame.f_back and any(part in frame.f_code.co_filename for part in LIBRARIES):
        frame = frame.f_back
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"

"""Products of a few tokens by NF4 weights as they are quantized, a quarter of bfloat16's bytes.

One token of one conversation takes as long as all weights take to be read. bitsandbytes has a
product for CPUs with AVX-512's bfloat16 instructions that reads four bits for each weight. It sums
in float32 and rounds the sixteen values of NF4 and the largest value of each block to bfloat16,
where the dequantized weight is their product, rounded once.
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.cextension import lib

from chatpipe.kernels.forwards import Forward

NF4_PRODUCTS = "nf4_products"
FEW_TOKENS = 4  # of a product; of more, it is slower than one of packed bfloat16 weights
BYTES_OF_WEIGHT = 0.5 + 2 / 64  # four bits, and a bfloat16 number for each block
BLOCK = 64  # weights quantized together
OUT_MULTIPLE = 32  # of output features, as bitsandbytes arranges them
_ROUNDING = 2.0**-7  # between a dequantized bfloat16 weight and that of its rounded block
_MOST_DISTANCE = 0.02  # relative, of a product from that of the dequantized weight
_ROUTINE = "gemv_4bit_inference_cpu_nf4_bf16"


def is_supported() -> bool:
    """Whether this machine and this bitsandbytes have the product."""
    # `lib` itself has every name: one that is missing raises when it is called.
    return bool(bnb.functional.has_avx512bf16()) and hasattr(lib._lib, _ROUTINE)


def nf4_product(weight: torch.Tensor) -> Forward | None:
    """Return what computes x W for up to `FEW_TOKENS` tokens, x (N, in) → (N, out), in bfloat16.

    weight: (out, in), bfloat16. None where it is not dequantized from NF4, and where the product is
    not that of the weight.
    """
    out_features, in_features = weight.shape
    if out_features % OUT_MULTIPLE or in_features % BLOCK or not _is_nf4(weight[:OUT_MULTIPLE]):
        return None
    codes, scales = _quantized(weight)
    scales = scales.squeeze(-1).T.contiguous()
    product = partial(_product, getattr(lib, _ROUTINE), _arranged(codes), scales)
    return product if _is_near(product, weight) else None


def _quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes (out, in / 64, 64) and scales (out, in / 64, 1) of a dequantized weight. The
    largest of a block's weights is its scale, because NF4 has the values 1 and -1."""
    blocks = weight.view(len(weight), -1, BLOCK)
    scales = blocks.abs().amax(-1, keepdim=True)
    relative = (blocks / scales).nan_to_num_()  # a block of zeros
    # A table is faster than a search: NF4's values are ten of the table's steps apart or more, and
    # a step that is computed in bfloat16 is less than one off.
    middles = (_values()[1:] + _values()[:-1]) / 2
    codes = torch.bucketize((torch.arange(256) - 128) / 127, middles).to(torch.uint8)
    steps = (relative * 127 + 128).to(torch.uint8).int()
    return codes.index_select(0, steps.view(-1)).view_as(blocks), scales


def _is_nf4(weight: torch.Tensor) -> bool:
    codes, scales = _quantized(weight)
    again = _values()[codes.int()] * scales.float()
    blocks = weight.view_as(again).float()
    return bool(((blocks - again).abs() <= _ROUNDING * again.abs()).all())


def _values() -> torch.Tensor:
    return bnb.functional.get_4bit_type("nf4", device="cpu")  # type: ignore[no-any-return]


def _arranged(codes: torch.Tensor) -> torch.Tensor:
    """Return the codes (out, in / 64, 64) as the routine reads them, (out, in / 2): of 32 rows one
    pair of columns after the other, of whose 64 codes a byte has one of each half."""
    rows = len(codes)
    pairs = codes.view(rows // OUT_MULTIPLE, OUT_MULTIPLE, -1, 2).transpose(1, 2)
    low, high = pairs.reshape(-1, 2, OUT_MULTIPLE).unbind(1)
    return (low | high << 4).view(rows, -1)


def _is_near(product: Forward, weight: torch.Tensor) -> bool:
    """Whether the product of some random numbers is the weight's, in every output."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(FEW_TOKENS, weight.shape[1], generator=generator).to(weight.dtype)
    difference = product(x).float() - torch.nn.functional.linear(x, weight).float()
    sizes = weight.norm(dim=1).float() * FEW_TOKENS**0.5  # of an output, to be expected
    return bool((difference.norm(dim=0) <= _MOST_DISTANCE * sizes).all())


def _product(
    routine: Any, arranged: torch.Tensor, scales: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """(N, in) → (N, out). arranged: (out, in / 2); scales: (in / 64, out)."""
    x = x.contiguous()
    (tokens, in_features), out_features = x.shape, len(arranged)
    output = x.new_empty(tokens, out_features)
    size, address = ctypes.c_int64, ctypes.c_void_p
    routine(
        size(tokens),
        size(out_features),
        size(in_features),
        address(x.data_ptr()),
        address(arranged.data_ptr()),
        address(scales.data_ptr()),
        address(output.data_ptr()),
        size(BLOCK),
        size(in_features),
        size(out_features),
    )
    return output

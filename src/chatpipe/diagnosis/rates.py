"""What this device reaches: the rate of matrix products, and of copies within its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from chatpipe.config.schema import Quantization
from chatpipe.diagnosis.findings import Finding, ok
from chatpipe.models.devices import compute_dtype, device

SECONDS = 1.0  # for each measurement
SIZES = {"cuda": (8192, 1 << 30), "cpu": (1024, 1 << 26)}  # of a matrix's side, bytes of a copy


def measured_rates() -> list[Finding]:
    """Measure both for a second each."""
    place = device()
    size = SIZES[place.type][1]
    source = torch.empty(size, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    copies = 2 * size * _per_second(lambda: target.copy_(source), place)
    name = str(compute_dtype(Quantization())).removeprefix("torch.")
    return [
        ok("matrix products", f"{matrix_rate() / 1e12:.3g} TFLOP/s in {name}"),
        ok("copies", f"{copies / 1e9:.3g} GB/s read and written"),
    ]


def matrix_rate() -> float:
    """Return the operations a second of a large product in the type that is computed in."""
    place, dtype = device(), compute_dtype(Quantization())
    side = SIZES[place.type][0]
    left, right = (torch.randn(side, side, device=place).to(dtype) for _ in range(2))
    return 2 * side**3 * _per_second(lambda: torch.mm(left, right), place)


def _per_second(run: Callable[[], object], place: torch.device) -> float:
    run()
    _finish(place)
    count, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS:
        run()
        _finish(place)
        count += 1
    return count / (time.monotonic() - started)


def _finish(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize()

"""The speed that is assumed of a device on which nothing was measured yet."""

from __future__ import annotations

import re
from typing import NamedTuple

from chatpipe.models.memory import Device

# Dense products in half precision with sums in float32, in 10^12 operations a second, by the
# makers' data sheets; the first name whose words the device's own has.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "GH200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 5090": 209.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 155.0,
    "V100": 125.0,
    "T4": 65.0,
}
# The share of the peak that a QLoRA training reaches: published trainings of 7B models are between
# a fifth and two fifths. A guess to within a factor of two or so.
REACHED_SHARE = 0.25
UNKNOWN_GPU = 20e12
CPU = 200e9  # measured with SmolLM2 on two cores


class AssumedRate(NamedTuple):
    """Operations a second of all devices together, and a text on how they were assumed."""

    flops: float
    basis: str


def peak_flops(name: str) -> float | None:
    """Return the peak of the device of that name; None for one that the table does not have."""
    peaks = (peak for part, peak in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name))
    return next((1e12 * peak for peak in peaks), None)


def assumed_rate(device: Device) -> AssumedRate:
    """Return the assumed speed; several GPUs count as so many times one."""
    if device.kind == "cpu":
        return AssumedRate(CPU, f"{CPU / 1e12:g} TFLOP/s assumed")
    peak = peak_flops(device.name)
    each = REACHED_SHARE * peak if peak else UNKNOWN_GPU
    share = f" ({REACHED_SHARE:.0%} of its peak)" if peak else ""
    times = f" on each of {device.count} GPUs" if device.count > 1 else ""
    return AssumedRate(each * device.count, f"{each / 1e12:g} TFLOP/s assumed{share}{times}")

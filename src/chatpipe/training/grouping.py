"""Which trainings are computed together, in a run and in its plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chatpipe.config.schema import AUTO
from chatpipe.kernels.switch import is_enabled
from chatpipe.models.memory import Device, is_padded
from chatpipe.models.placement import trainings_that_fit
from chatpipe.models.shapes import Shapes
from chatpipe.training.finetune import Finetune
from chatpipe.utils.unique import unique_by

AUTO_MOST = 8  # trainings of a group whose size was left to chatpipe
# What trainings that share passes have in common; the rest is each one's own.
IN_COMMON = (
    "base",
    "quantization",
    "train_together",
    "lora.target_modules",
    "training.micro_batch_tokens",
    "training.gradient_checkpointing",
)


def have_settings_in_common(one: Finetune, other: Finetune) -> bool:
    """Return whether the settings let both be trained together."""
    if largest_group(one) == 1 or one.tracked or other.tracked:
        return False  # trackers have one run a process
    return all(_value(one, name) == _value(other, name) for name in IN_COMMON)


def largest_group(request: Finetune) -> int:
    """Return how many trainings may be computed together by the settings, whatever the device."""
    together = request.train_together
    if together == "off":
        return 1
    return AUTO_MOST if together == AUTO else int(together)


def trainings_at_once(request: Finetune, shapes: Shapes | None, device: Device) -> int:
    """Return how many trainings like this one the device computes together."""
    is_auto = request.train_together == AUTO
    if device.count > 1 or (is_auto and device.kind == "cpu"):
        return 1
    return trainings_that_fit(shapes, request, largest_group(request), device)


def groups(
    requests: Sequence[Finetune], at_once: Callable[[Finetune], int]
) -> list[list[Finetune]]:
    """Return the trainings in the groups in which one process after another computes them: the
    first one of all takes those along that may join it, and so does the first one that is left."""
    left = unique_by(requests, Finetune.model_dump_json)
    result = []
    while left:
        first, *others = left
        joining = [other for other in others if have_settings_in_common(other, first)]
        result.append([first, *joining][: at_once(first)])
        left = [request for request in left if request not in result[-1]]
    return result


def shared_pass_fault(request: Finetune, shapes: Shapes, device: Device) -> str | None:
    """Return why trainings do not share passes, as far as it shows before the base is loaded; the
    process that trains them looks at the model itself (`group_fault`)."""
    on_cpu = device.kind == "cpu"
    is_quantized = request.quantization.method == "nf4"
    drops = request.lora.dropout > 0
    checkpointed = request.training.gradient_checkpointing is True
    faults = {
        "rows are padded": is_padded(shapes),
        "LoRA's joined products are switched off": not is_enabled("lora_training"),
        "float16 needs a scaler for each": device.is_float16,
        "4-bit weights are not dequantized": on_cpu
        and is_quantized
        and not is_enabled("dequantize"),
        "dropout is torch's own": on_cpu and drops and not is_enabled("sparse_dropout"),
        "layers with dropout are computed again": drops and checkpointed,
    }
    return next((fault for fault, applies in faults.items() if applies), shapes.sharing_fault)


def _value(request: Finetune, name: str) -> Any:
    value: Any = request
    for part in name.split("."):
        value = getattr(value, part)
    return value

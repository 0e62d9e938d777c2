"""The time of a training, and the bytes that it writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, computed_field

from chatpipe.config.schema import Training
from chatpipe.models.memory import FLOAT32, Batch, Device, training_flops
from chatpipe.models.shapes import Shapes
from chatpipe.planning.device_rates import assumed_rate
from chatpipe.store.artifact import Artifact
from chatpipe.store.store import store
from chatpipe.training.finetune import Finetune

MADE_OF_ROWS = 2  # examples and corpora, as a multiple of the source's files
CHECKPOINTS = 3  # two are kept, and a third is written before the oldest goes


class Duration(BaseModel):
    """The time of training, without the start of the process."""

    model_config = ConfigDict(frozen=True)

    tokens: int
    tokens_per_s: float
    basis: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seconds(self) -> float:
        """All epochs."""
        return self.tokens / self.tokens_per_s


class Need(BaseModel):
    """Bytes that a step would write beneath `path`.

    of: Which base model or data set they are of, so that a study counts them once.
    """

    model_config = ConfigDict(frozen=True)

    what: str
    path: Path
    bytes: int
    of: str = ""
    of_one_training: bool = False  # not shared with the other variants of a study


def duration(
    tokens: int, shapes: Shapes, batch: Batch, device: Device, base: Artifact | None
) -> Duration:
    """Estimate the time by the rate of an adapter of the same base and device, or assume a rate."""
    measured = measured_rate(device, base) if base else None
    if measured:
        return Duration(tokens=tokens, tokens_per_s=measured.tokens_per_s, basis=measured.basis)
    assumed = assumed_rate(device)
    return Duration(
        tokens=tokens,
        tokens_per_s=assumed.flops / training_flops(shapes, batch.checkpoint_every),
        basis=f"{assumed.basis}; nothing was measured on this device yet",
    )


class Rate(NamedTuple):
    """Tokens a second, and what the number comes from."""

    tokens_per_s: float
    basis: str


class _Conditions(NamedTuple):
    """What a stored rate depends on beside base and device: the number of processes, and whether
    the training shared its passes with others, which is faster."""

    processes: int
    together: bool


def measured_rate(device: Device, base: Artifact, together: bool = False) -> Rate | None:
    """Return the rate of the newest stored adapter of that base on such a device, which was trained
    alone or, where `together`, with others; None if there is none.

    If there is none that was trained on as many of these devices, the rate on another number of
    GPUs is divided among these. Where a training alone is asked for and all were trained with
    others, their rate is returned, and the basis says that it is an upper bound.
    """
    rates = _stored_rates(device, base)
    rate = _rate(rates, device, together)
    if rate or together:
        return rate
    shared = _rate(rates, device, together=True)
    return shared and shared._replace(
        basis=f"{shared.basis}, trained with others; alone it is slower"
    )


def _stored_rates(device: Device, base: Artifact) -> dict[_Conditions, tuple[str, float]]:
    """Return when the newest adapter under each conditions was made, and its tokens a second."""
    rates: dict[_Conditions, tuple[str, float]] = {}
    for manifest in store().manifests(Finetune.kind):
        details, created = manifest["details"], manifest["created"]
        same_base = manifest["asked"]["base"]["digest"] == base.digest
        is_together = details.get("trained_together", 1) > 1
        conditions = _Conditions(details.get("processes", 1), is_together)
        if same_base and details.get("device") == device.name:
            entry = (created, float(details["tokens_per_s"]))
            rates[conditions] = max(rates.get(conditions, entry), entry)
    return rates


def _rate(
    rates: dict[_Conditions, tuple[str, float]], device: Device, together: bool
) -> Rate | None:
    of_kind = {one.processes: rates[one] for one in rates if one.together is together}
    if device.count in of_kind:
        basis = "the rate of the last adapter of this base on this device"
        return Rate(of_kind[device.count][1], basis)
    if not of_kind or device.kind != "cuda":
        return None
    count, (_, rate) = max(of_kind.items(), key=lambda item: item[1])
    basis = f"the rate of the last adapter of this base on {count} such GPUs, for {device.count}"
    return Rate(rate * device.count / count, basis)


def adapter_bytes(shapes: Shapes, steps: int, training: Training) -> int:
    """Return the bytes of the adapter and of its checkpoints (weights and Adam's two moments)."""
    checkpoints = min(CHECKPOINTS, -(-steps // training.save_steps))
    return shapes.lora_parameters * FLOAT32 * (1 + 3 * checkpoints)


def hub_cache() -> Path:
    """Return the directory of the hub's downloads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def lacking_room(needs: Iterable[Need]) -> list[str]:
    """Return a sentence for every disk that has less room than is needed."""
    from chatpipe.utils.quantities import in_bytes

    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        by_disk.setdefault(_existing(need.path).stat().st_dev, []).append(need)
    faults = []
    for disk_needs in by_disk.values():
        needed = sum(need.bytes for need in disk_needs)
        free = free_bytes(disk_needs[0].path)
        if needed > free:
            names = ", ".join(dict.fromkeys(need.what for need in disk_needs))
            faults.append(
                f"disk: {disk_needs[0].path}: {in_bytes(needed)} are needed ({names}), "
                f"{in_bytes(free)} are free; make room, or move CHATPIPE_HOME or HF_HOME."
            )
    return faults


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that the path is or would be on."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    return next(directory for directory in (path, *path.parents) if directory.exists())

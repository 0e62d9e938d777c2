"""Which rows each optimizer step trains on, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Sampler


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The order in which that epoch has the rows."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator).tolist()


def times_seen(rows: int, size: int, seed: int, steps: int) -> npt.NDArray[np.int64]:
    """How often each row (rows,) is trained on in that many steps of `size` rows."""
    epochs, steps_left = divmod(steps, -(-rows // size))
    times = np.full(rows, epochs, np.int64)
    times[epoch_order(rows, seed, epochs)[: steps_left * size]] += 1
    return times


class GlobalBatches(Sampler[list[int]]):
    """Every epoch's rows in an order drawn from seed and epoch, `size` of them a step; of each
    step, process `rank` of `world` gets every world-th row. A last, smaller step may leave a
    process without any."""

    def __init__(self, rows: int, size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.rows, self.size, self.seed = rows, size, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to that epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(self.rows, self.seed, self.epoch)
        for start in range(0, self.rows, self.size):
            yield order[start : start + self.size][self.rank :: self.world]


class EpochLoader(DataLoader[Any]):
    """A DataLoader over global batches that passes the epoch on to them."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of every epoch."""
        assert isinstance(self.batch_sampler, GlobalBatches)
        self.batch_sampler.set_epoch(epoch)

"""Which rows each optimizer step trains on, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Sampler


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """Return the order of the rows in an epoch."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator).tolist()


def times_seen(rows: int, size: int, seed: int, steps: int) -> npt.NDArray[np.int64]:
    """Return how often each row is trained on in that many steps of `size` rows, as (rows,)."""
    epochs, steps_left = divmod(steps, -(-rows // size))
    times = np.full(rows, epochs, np.int64)
    times[epoch_order(rows, seed, epochs)[: steps_left * size]] += 1
    return times


class GlobalBatches(Sampler[list[int]]):
    """Batches of `size` rows, in an order drawn from seed and epoch. Process `rank` of `world` gets
    every world-th row of each batch; the last, smaller batch may have none for a process."""

    def __init__(self, rows: int, size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.rows, self.size, self.seed = rows, size, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Use the order of that epoch."""
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

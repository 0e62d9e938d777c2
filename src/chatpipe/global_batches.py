"""Which rows each optimizer step trains on, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


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
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.rows, generator=generator).tolist()
        for start in range(0, self.rows, self.size):
            yield order[start : start + self.size][self.rank :: self.world]


class EpochLoader(DataLoader[Any]):
    """A DataLoader over global batches that passes the epoch on to them."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of every epoch."""
        assert isinstance(self.batch_sampler, GlobalBatches)
        self.batch_sampler.set_epoch(epoch)

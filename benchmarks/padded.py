"""What chatpipe's packed training is compared with: transformers' Trainer over padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer

from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.sampler import EpochLoader, GlobalBatches


def pad(rows: Sequence[TokenizedRow]) -> dict[str, torch.Tensor]:
    """(rows, longest) ids, mask and labels, padded on the right."""
    longest = max(len(row.input_ids) for row in rows)
    gaps = [(row, longest - len(row.input_ids)) for row in rows]
    parts = {
        "input_ids": [row.input_ids + [0] * gap for row, gap in gaps],
        "attention_mask": [[1] * (longest - gap) + [0] * gap for _, gap in gaps],
        "labels": [row.labels + [IGNORED] * gap for row, gap in gaps],
    }
    return {name: torch.tensor(values) for name, values in parts.items()}


class TrainerInOurOrder(Trainer):  # type: ignore[misc]
    """The Trainer, with the rows of each step that chatpipe would train on: losses of the same
    step are then of the same rows."""

    def get_train_dataloader(self) -> Any:
        size = self.args.per_device_train_batch_size
        batches = GlobalBatches(len(self.train_dataset), size, seed=self.args.seed)
        return EpochLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)

"""transformers' Trainer over packed rows: one of its steps is one optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import Trainer

from chatpipe.packing import pack, packed_nats, packs
from chatpipe.tokenization import TokenizedRow


class PackingCollator:
    """The rows of an optimizer step → packs of at most `max_tokens` tokens each."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        groups = packs([TokenizedRow(**row) for row in rows], self.max_tokens)
        return {"packs": [pack(group) for group in groups]}


class PackedTrainer(Trainer):  # type: ignore[misc]
    """A step's loss is the mean over all scored tokens of its rows, on all processes, as the
    Trainer's own is: how the rows are packed changes nothing but the speed."""

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Backward through every pack; the step's loss, of which the mean over processes is
        logged."""
        model.train()
        accelerator = self.accelerator
        prepared = self._prepare_inputs(inputs)["packs"]
        scored = torch.tensor(sum(sum(p["counts"]) for p in prepared), device=self.args.device)
        # Processes average their gradients; what is wanted is the mean over all tokens.
        weight = accelerator.num_processes / accelerator.reduce(scored, "sum")
        loss = torch.zeros((), device=self.args.device)
        for place, packed in enumerate(prepared):
            is_last = place == len(prepared) - 1
            with nullcontext() if is_last else accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    part = packed_nats(model, packed).sum() * weight
                accelerator.backward(part)
            loss += part.detach()
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's formula is for padded rows."""
        return 0

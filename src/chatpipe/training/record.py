"""What an adapter's manifest records of its training."""

from __future__ import annotations

from typing import Any, NamedTuple

from chatpipe.config.schema import Quantization, Training
from chatpipe.tokenization.encoder import Tokenized


class Times(NamedTuple):
    """Seconds of a training: `wall` of all of it, that before a resumption included, and `train` of
    its optimizer steps since then. resumed_at: steps before the resumption."""

    wall: float
    train: float
    resumed_at: int


def training_record(
    training: Training, quantization: Quantization, trainer: Any, rows: Tokenized, times: Times
) -> dict[str, Any]:
    """Return the record of a training."""
    from chatpipe.models import devices
    from chatpipe.training.sampler import times_seen

    trained = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
    steps = trainer.state.global_step
    size, seed = training.global_batch_size, training.seed
    repeats = times_seen(rows.row_count, size, seed, steps)
    history = [
        {"step": item["step"], "epoch": item["epoch"], "loss": item["loss"]}
        for item in trainer.state.log_history
        if "loss" in item
    ]
    wall, seconds, resumed_at = times
    if resumed_at == steps:  # the checkpoint of the last step: all was trained before
        resumed_at, train_s, seconds = 0, wall, wall
    else:
        train_s = wall if resumed_at else seconds
    seen_before = times_seen(rows.row_count, size, seed, resumed_at)
    return {
        "wall_s": round(wall, 3),
        "train_s": round(train_s, 3),
        "rows_trained": rows.row_count,
        "rows_cut": rows.cut,
        "rows_left_out": rows.left_out,
        "replies_scored": rows.scored_replies,
        "rows_with_control_text": rows.control_rows,
        "epochs": round(int(repeats.sum()) / rows.row_count, 4),
        "trained_tokens": int(repeats @ rows.row_tokens),
        "scored_tokens": int(repeats @ rows.row_scored_tokens),
        "tokens_per_s": round(int((repeats - seen_before) @ rows.row_tokens) / seconds, 1),
        "optimizer_steps": steps,
        "trainable_parameters": sum(trained),
        "peak_memory_bytes": devices.peak_memory_bytes(),
        "device": devices.device_name(),
        "compute_dtype": str(devices.compute_dtype(quantization)).removeprefix("torch."),
        "processes": trainer.accelerator.num_processes,
        "base_shared": trainer.in_lockstep,
        **(trainer.passes.record() if trainer.passes else {}),
        "versions": devices.library_versions(),
        "loss_history": history,
    }

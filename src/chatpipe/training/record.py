"""What an adapter's manifest records of its training."""

from __future__ import annotations

from typing import Any

from chatpipe.config.schema import Quantization, Training
from chatpipe.tokenization.encoder import Tokenized


def training_record(
    training: Training,
    quantization: Quantization,
    trainer: Any,
    rows: Tokenized,
    wall: float,
    resumed_at: int,
) -> dict[str, Any]:
    """Return the record of a training; the Trainer's own time begins at the resumption."""
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
    seconds = next(
        (i["train_runtime"] for i in trainer.state.log_history if "train_runtime" in i), wall
    )
    if resumed_at == steps:  # the checkpoint of the last step: all was trained before
        resumed_at, train_s, seconds = 0, wall, wall
    else:
        train_s = wall if resumed_at else seconds
    seen_before = times_seen(rows.row_count, size, seed, resumed_at)
    return {
        "wall_s": round(wall, 3),
        "train_s": train_s,
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
        "versions": devices.library_versions(),
        "loss_history": history,
    }

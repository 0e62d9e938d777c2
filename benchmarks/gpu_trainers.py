"""The trainers that `benchmarks.gpu` compares, each for steps of the same rows."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.padded import pad
from chatpipe.config.schema import Quantization
from chatpipe.kernels.liger import is_installed as has_liger
from chatpipe.models.devices import compute_dtype
from chatpipe.packing.batching import batching_for
from chatpipe.tokenization.encoder import TokenizedRow
from chatpipe.training.trainer import AdapterTrainer, BatchCollator

NF4 = Quantization()
PASS_TOKENS = 2048  # of the rows that are trained on: all of a step's
EPOCHS = 64  # copies of the rows, which are more than any training here has steps
Rows = list[TokenizedRow]


class Clock(TrainerCallback):  # type: ignore[misc]
    """The time of a training without its first step."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.monotonic()
        if state.global_step == 1:
            self.started = self.ended

    def seconds(self) -> float:
        return self.ended - self.started


def own(model: Any, rows: Rows, folder: str, steps: int) -> AdapterTrainer:
    """Return chatpipe's trainer, which makes one pack of the rows of a step."""
    batching = batching_for(model)
    half = compute_dtype(NF4)
    return AdapterTrainer(
        model=model,
        args=TrainingArguments(**_settings(folder, steps), fp16=half is torch.float16),
        train_dataset=[[row] for row in rows] * steps,
        data_collator=BatchCollator(PASS_TOKENS, 1, batching),
        global_batch_size=len(rows),
    )


def plain(model: Any, rows: Rows, folder: str, steps: int) -> Trainer:
    """Return transformers' Trainer: the rows of a step in one padded batch."""
    settings = TrainingArguments(**_settings(folder, steps), **_batches_of(rows))
    return Trainer(model=model, args=settings, train_dataset=rows * EPOCHS, data_collator=pad)


def trl(model: Any, rows: Rows, folder: str, steps: int) -> Trainer:
    """Return TRL's, as its documentation makes it fast: the rows of a step behind one another
    without padding; FlashAttention and Liger where they are installed."""
    return trl_trainer(model, word_tokenizer(), rows, folder, steps)


def trl_trainer(model: Any, tokenizer: Any, rows: Rows, folder: str, steps: int) -> Trainer:
    """As `trl`, with the tokenizer that its trainer asks for and does not use here."""
    from trl import SFTConfig, SFTTrainer

    if find_spec("flash_attn"):
        model.get_base_model().set_attn_implementation("flash_attention_2")
    settings = SFTConfig(
        **_settings(folder, steps),
        **_batches_of(rows),
        padding_free=True,
        max_length=None,
        gradient_checkpointing=False,
        use_liger_kernel=has_liger(),
    )
    return SFTTrainer(
        model=model,
        args=settings,
        train_dataset=sft_dataset(rows * EPOCHS),
        processing_class=tokenizer,
    )


def sft_dataset(rows: Rows) -> Any:
    """Return the rows as TRL takes tokens; labels are used as they are."""
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])


def word_tokenizer() -> Any:
    """Return a tokenizer of a few words, which is made without a file."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<unk>")


def _batches_of(rows: Rows) -> dict[str, Any]:
    """One batch a step, in the half precision of the device."""
    half = compute_dtype(NF4)
    return {
        "per_device_train_batch_size": len(rows),
        "fp16": half is torch.float16,
        "bf16": half is torch.bfloat16,
    }


def _settings(folder: str, steps: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "remove_unused_columns": False,
        "max_steps": steps,
    }

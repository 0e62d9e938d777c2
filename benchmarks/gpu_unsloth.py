"""Unsloth's training of the rows that `benchmarks.gpu` trains on, in a process of its own: Unsloth
changes transformers, peft and TRL where it is imported, and wants to be imported first. Prints the
seconds of the steps and the peak memory as JSON.

    python -m benchmarks.gpu_unsloth DIRECTORY ROWS STEPS

DIRECTORY: a base. ROWS: a JSON file of token ids and labels. Run it where Unsloth and a GPU are.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main(base: str, rows_file: str, steps: str) -> None:
    from unsloth import FastLanguageModel  # isort: skip

    import torch

    from benchmarks.gpu_trainers import Clock, trl_trainer
    from chatpipe.config.schema import Lora
    from chatpipe.tokenization.encoder import TokenizedRow

    lora = Lora()
    model, tokenizer = FastLanguageModel.from_pretrained(
        base, max_seq_length=2048, load_in_4bit=True, dtype=None
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(LAYERS),
        use_gradient_checkpointing=False,
    )
    content = json.loads(Path(rows_file).read_text("utf-8"))
    rows = [TokenizedRow(ids, labels, place) for place, (ids, labels) in enumerate(content)]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(model, tokenizer, rows, folder, int(steps))
        trainer.add_callback(clock)
        trainer.train()
    peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": clock.seconds(), "peak_memory_bytes": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])

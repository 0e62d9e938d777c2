"""Training: real tokens a second, and the held-out loss after an epoch.

Same rows, same NF4 base, same LoRA, same global batch, same learning rate:
  padded      transformers' Trainer, batches of 2, padded: the 2023 recipe
  trl         TRL's SFTTrainer, padded, batches of 2
  trl-packed  TRL's SFTTrainer, packed (best-fit), as many tokens a step
  trl-fast    the same on the dequantized base that chatpipe trains on: packing alone
  ours        chatpipe's packed training

    python -m benchmarks.training [--rounds 3] [--rows 96] [--file ROWS]
                                  [--base DIRECTORY] [--length 2048]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from benchmarks import harness, rows
from benchmarks.gpu_trainers import sft_dataset
from benchmarks.padded import pad
from chatpipe.config.schema import Lora, Quantization, Training
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.models.devices import compute_dtype, peak_memory_bytes
from chatpipe.models.loading import load_base, load_fast_base
from chatpipe.models.lora import lora_config, with_adapter
from chatpipe.models.shapes import shapes_of
from chatpipe.runtime.environment import prepare
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.sampler import GlobalBatches

# The global batch and the dropout are those of everyone who changes nothing.
SETTINGS = Training(learning_rate=1e-3, epochs=1)
PASS_TOKENS = 2048  # what `auto` is on a CPU
GLOBAL_BATCH = SETTINGS.global_batch_size
TRL_PACK = 4  # rows: faster here than 8 or 16
LORA = Lora()
QUANTIZATION = Quantization()

Rows = Sequence[TokenizedRow]


def tuned(base: Path, load: Callable[[Path, Quantization], Any], lora: Lora = LORA) -> Any:
    torch.manual_seed(0)
    return get_peft_model(load(base, QUANTIZATION), lora_config(lora))


def arguments(folder: str, **more: Any) -> dict[str, Any]:
    """What every Trainer gets."""
    return {
        "output_dir": folder,
        "num_train_epochs": 1,
        "learning_rate": SETTINGS.learning_rate,
        "lr_scheduler_type": SETTINGS.schedule,
        "max_grad_norm": SETTINGS.max_grad_norm,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 0,
        **more,
    }


def half_precision() -> dict[str, bool]:
    """What transformers' Trainer is told of the type that is computed in."""
    dtype = compute_dtype(QUANTIZATION)
    return {"bf16": dtype is torch.bfloat16, "fp16": dtype is torch.float16}


def padded(base: Path, train: Rows, folder: str) -> Any:
    from transformers import Trainer, TrainingArguments

    settings = TrainingArguments(
        **arguments(
            folder,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=GLOBAL_BATCH // 2,
            **half_precision(),
            remove_unused_columns=False,
        )
    )
    return Trainer(
        model=tuned(base, load_base), args=settings, train_dataset=list(train), data_collator=pad
    )


def trl(base: Path, train: Rows, folder: str) -> Any:
    return _trl(
        base,
        train,
        folder,
        per_device_train_batch_size=2,  # faster here than 4 or 8
        gradient_accumulation_steps=GLOBAL_BATCH // 2,
    )


def trl_packed(
    base: Path,
    train: Rows,
    folder: str,
    load: Callable[[Path, Quantization], Any] = load_base,
) -> Any:
    """Packs of as many tokens as TRL_PACK rows have on average."""
    tokens = sum(len(row.input_ids) for row in train)
    length = max(TRL_PACK * tokens // len(train), *(len(row.input_ids) for row in train))
    more = {"packing": True, "packing_strategy": "bfd", "max_length": length}
    return _trl(
        base,
        train,
        folder,
        load,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=GLOBAL_BATCH // TRL_PACK,
        **more,
    )


def trl_fast(base: Path, train: Rows, folder: str) -> Any:
    return trl_packed(base, train, folder, load_fast_base)


def _trl(
    base: Path,
    train: Rows,
    folder: str,
    load: Callable[[Path, Quantization], Any] = load_base,
    **more: Any,
) -> Any:
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        **arguments(
            folder,
            **half_precision(),
            gradient_checkpointing=False,
            **{"max_length": None, **more},
        )
    )
    from chatpipe.models.loading import load_tokenizer

    trainer = SFTTrainer(
        model=tuned(base, load),
        args=settings,
        train_dataset=sft_dataset(list(train)),
        processing_class=load_tokenizer(base),
    )
    # TRL holds an NF4 base's adapter in bfloat16, whose products are a hundred times slower where
    # the CPU has no instructions for them.
    if compute_dtype(QUANTIZATION) is torch.float32:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def ours(base: Path, train: Rows, folder: str, lora: Lora = LORA, **more: Any) -> Any:
    from transformers import TrainingArguments

    from chatpipe.packing.batching import batching_for
    from chatpipe.training.trainer import AdapterTrainer, BatchCollator, max_training_threads

    half = {"fp16": half_precision()["fp16"]}  # bfloat16's autocast is the trainer's own
    unused = {"remove_unused_columns": False}
    settings = TrainingArguments(**arguments(folder, **{**half, **unused, **more}))
    torch.manual_seed(0)
    model = with_adapter(load_fast_base(base, QUANTIZATION), lora)
    batching = batching_for(model)
    return AdapterTrainer(
        model=model,
        args=settings,
        train_dataset=[[row] for row in train],
        data_collator=BatchCollator(
            PASS_TOKENS, max_training_threads(model, 1, batching), batching
        ),
        global_batch_size=GLOBAL_BATCH,
    )


CONTENDERS = {
    "padded": padded,
    "trl": trl,
    "trl-packed": trl_packed,
    "trl-fast": trl_fast,
    "ours": ours,
}


def run(name: str, options: argparse.Namespace) -> harness.Result:
    """Train for an epoch; the seconds are the Trainer's own, without loading."""
    from contextlib import nullcontext

    from chatpipe.training.trainer import batch_training

    prepare()
    base = rows.base_model(options.base).path
    train, heldout = rows.tokenized(
        base_artifact(options), options.file, (options.rows, 60), options.length
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = CONTENDERS[name](base, train, folder)
        model = trainer.model
        with batch_training(model) if name == "ours" else nullcontext():
            started = time.monotonic()
            trainer.train()
            seconds = time.monotonic() - started
        peak = peak_memory_bytes()
    model.eval()
    scored = sum(label != IGNORED for row in heldout for label in row.labels[1:])
    tokens = sum(len(row.input_ids) for row in train)
    return {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "tokens": tokens,
        "heldout_loss": sum(row_nats(model, heldout, 1024)) / scored,
        "optimizer_steps": trainer.state.global_step,
        "peak_memory_bytes": peak,
        **(packed_work(train, trainer.data_collator) if name == "ours" else {}),
    }


def packed_work(train: Rows, collate: Callable[[Rows], dict[str, Any]]) -> harness.Result:
    """What chatpipe computes in an epoch: `computed_tokens`, of which what the rows of a pack
    begin with in common counts once, the `computed_logits` among them, and the `computed_scores`
    of a head (those that the mask takes away again included)."""
    steps = GlobalBatches(len(train), GLOBAL_BATCH, seed=0)
    packs = [pack for step in steps for pack in collate([[train[i]] for i in step])["batches"]]
    return {
        "computed_tokens": sum(pack["input_ids"].numel() for pack in packs),
        "computed_logits": sum(pack["kept"].numel() for pack in packs),
        "computed_scores": sum(
            length * span
            for pack in packs
            for length, span in zip(pack["layout"]["lengths"], pack["layout"]["spans"], strict=True)
        ),
    }


def base_artifact(options: argparse.Namespace) -> Any:
    return rows.base_model(options.base)


def matrix_rate(seconds: float = 2.0) -> float:
    """The best matrix product of this machine in the type that is computed in, in operations a
    second."""
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", compute_dtype(QUANTIZATION)
    best = 0.0
    sizes, at_once = ((4096, 8192), 50) if device == "cuda" else ((512, 1024, 2048, 4096), 1)
    for size in sizes:
        left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in "ab")
        count, started = 0, time.monotonic()
        while time.monotonic() - started < seconds:
            for _ in range(at_once):
                left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            count += at_once
        best = max(best, 2 * size**3 * count / (time.monotonic() - started))
    return best


def operations(base: Path, work: harness.Result) -> dict[str, float]:
    """Of an epoch's matrix products. `linear`: for every computed token 4 a weight of the linear
    layers (forward, and the gradient of the input; a frozen weight has none of its own) and 6 a
    weight of the adapter; for every computed logit 4 a weight of the output layer. `attention`:
    two products forward and four backward (Chowdhery et al. 2022, appendix B)."""
    shapes = shapes_of(base, LORA)
    layers = 4 * shapes.linear_parameters + 6 * shapes.lora_parameters
    head = 4 * shapes.head_parameters
    return {
        "linear": layers * work["computed_tokens"] + head * work["computed_logits"],
        "attention": 12 * shapes.layers * shapes.attention * work["computed_scores"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--base", help="a model directory; the embedded 135M base when left out")
    parser.add_argument("--file", type=Path, help="rows of one's own")
    parser.add_argument("--length", type=int, help="join rows to so many tokens each")
    harness.add_only(parser, CONTENDERS)
    options = parser.parse_args()
    if options.contender:
        harness.say(run(options.contender, options))
        return
    passed = [f"--rows={options.rows}"]
    passed += [f"--base={options.base}"] if options.base else []
    passed += [f"--file={options.file}"] if options.file else []
    passed += [f"--length={options.length}"] if options.length else []
    contenders = harness.chosen(CONTENDERS, options.only)
    found = harness.contend("benchmarks.training", contenders, options.rounds, passed)
    base = base_artifact(options)
    products, rate = operations(base.path, found["ours"][0]), matrix_rate()
    epoch = sum(products.values())
    reached = [epoch / result["seconds"] / rate for result in found["ours"]]
    computed = found["ours"][0]["computed_tokens"]
    ratios = harness.ratios(found)
    print_results(found, ratios)
    print(
        f"ours: {computed / found['ours'][0]['tokens']:.0%} of the tokens are computed, with "
        f"{epoch / computed / 1e6:,.0f} million operations each "
        f"({products['attention'] / epoch:.1%} of them attention's); {min(reached):.0%} to "
        f"{max(reached):.0%} of the best matrix product, {rate / 1e9:,.0f} GFLOP/s"
    )
    harness.write(
        f"training-{Path(options.base).name}" if options.base else "training",
        harness.command("benchmarks.training", options.rounds, passed, options.only),
        {
            "rounds": found,
            "ratios": ratios,
            "operations": products,
            "matrix_rate": rate,
            "share_of_matrix_rate": reached,
        },
    )


def print_results(found: harness.Rounds, ratios: dict[str, harness.Result]) -> None:
    """A line for each contender."""
    from statistics import median

    lines = []
    for name, results in found.items():
        against = ratios.get(name)
        lines.append(
            {
                "contender": name,
                "tokens/s": f"{median(r['tokens_per_s'] for r in results):,.0f}",
                "held-out loss": f"{median(r['heldout_loss'] for r in results):.3f}",
                "peak GiB": f"{median(r['peak_memory_bytes'] for r in results) / 2**30:.1f}",
                "ours is faster by": harness.shown(against),
            }
        )
    harness.table("Training, real tokens a second", lines)


if __name__ == "__main__":
    main()

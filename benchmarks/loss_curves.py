"""Loss by optimizer step, padded and packed, from the same start over the same rows.

Each step's rows are the same for both, so the curves should lie on each other: packing must change
nothing but the speed. Both curves are drawn into loss_curves.html, beside the result.

    python -m benchmarks.loss_curves [--rows 128] [--epochs 2] [--file ROWS]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import harness, rows, training
from benchmarks.padded import TrainerInOurOrder, pad
from chatpipe.config.schema import Lora
from chatpipe.models.devices import compute_dtype
from chatpipe.models.loading import load_base
from chatpipe.report import drawing as draw
from chatpipe.report.html import environment
from chatpipe.runtime.environment import prepare

CONTENDERS = ("padded", "ours")
LORA = Lora(dropout=0.0)  # whose noise would be another one for each
PAGE = """{% from "parts.html.j2" import style %}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Loss curves</title>{{ style() }}</head>
<body><main>{{ chart }}</main></body></html>
"""


def run(name: str, options: argparse.Namespace) -> harness.Result:
    from transformers import TrainingArguments

    from chatpipe.training.trainer import batch_training

    prepare()
    base = rows.base_model(options.base)
    train, _ = rows.tokenized(base, options.file, (options.rows, 0))
    with tempfile.TemporaryDirectory() as folder:
        more = {"num_train_epochs": options.epochs, "remove_unused_columns": False}
        if name == "ours":
            trainer = training.ours(base.path, train, folder, LORA, **more)
            with batch_training(trainer.model):
                trainer.train()
        else:
            import torch

            more["per_device_train_batch_size"] = training.GLOBAL_BATCH
            more["bf16"] = compute_dtype(training.QUANTIZATION) is torch.bfloat16
            trainer = TrainerInOurOrder(
                model=training.tuned(base.path, load_base, LORA),
                args=TrainingArguments(**training.arguments(folder, **more)),
                train_dataset=train,
                data_collator=pad,
            )
            trainer.train()
    return {"losses": [item["loss"] for item in trainer.state.log_history if "loss" in item]}


def chart(losses: dict[str, list[float]]) -> str:
    """Both curves over each other, as SVG."""
    every = [loss for curve in losses.values() for loss in curve]
    steps = max(map(len, losses.values()))
    plot = draw.Plot(
        draw.Box(64, 14, 620, 240), draw.ticks(0, steps), draw.ticks(min(every), max(every))
    )
    body = draw.axes(plot, "optimizer step", "loss")
    for index, curve in enumerate(losses.values()):
        body.append(draw.curve(plot, index, [(step + 1, loss) for step, loss in enumerate(curve)]))
    legend, height = draw.legend(list(losses), plot.box)
    ends = ", ".join(f"{name} ends at {curve[-1]:.3f}" for name, curve in losses.items())
    words = ("Loss by optimizer step, padded and packed", ends)
    return draw.svg("losses", (700, height), words, body + legend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contender")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--base", help="a model directory; the embedded 135M base when left out")
    parser.add_argument("--file", type=Path, help="rows of one's own")
    options = parser.parse_args()
    if options.contender:
        harness.say(run(options.contender, options))
        return
    passed = [f"--rows={options.rows}", f"--epochs={options.epochs}"]
    passed += [f"--base={options.base}"] if options.base else []
    passed += [f"--file={options.file}"] if options.file else []
    found = harness.contend("benchmarks.loss_curves", CONTENDERS, 1, passed)
    padded, packed = (found[name][0]["losses"] for name in CONTENDERS)
    furthest = max(abs(a - b) for a, b in zip(padded, packed, strict=True))
    print(f"{len(packed)} steps; at no step are the losses further apart than {furthest:.3f}")
    harness.write(
        "loss_curves",
        f"python -m benchmarks.loss_curves {' '.join(passed)}",
        {"padded": padded, "packed": packed, "furthest": furthest},
    )
    from markupsafe import Markup

    svg = chart({"padded, transformers' Trainer": padded, "packed, chatpipe": packed})
    page = environment().from_string(PAGE).render(chart=Markup(svg))
    (harness.results() / "loss_curves.html").write_text(page, "utf-8")


if __name__ == "__main__":
    main()

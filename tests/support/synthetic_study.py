"""Studies of as many cells as a test asks for: real artifacts and reports of drawn likelihoods."""

import itertools
import json
import math
from typing import Any, NamedTuple

import numpy as np

from chatpipe.config.schema import Variant
from chatpipe.report.build import MakeReport
from chatpipe.report.measured import Measured
from chatpipe.report.schema import MissingCell
from chatpipe.store.store import store
from tests.support.measured import Rows, Tables, heldout, model

SETS = ("sample-alpaca", "sample-dialog")
PROMPTS = ("What if time travel was possible?", "Name three primes.")
# cells -> learning rates, shares of the data, seeds
GRIDS: dict[int, tuple[tuple[float, ...], tuple[float, ...], int]] = {
    3: ((1e-4, 3e-4, 1e-3), (1.0,), 1),
    12: ((1e-4, 3e-4), (0.5, 1.0), 3),
    100: ((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), (0.125, 0.25, 0.5, 1.0), 5),
}
BEST_RATE, SEED_SD, ALL_ROWS = 3e-4, 0.01, 4_000


class Cell(NamedTuple):
    """The settings of a training."""

    rate: float
    share: float
    seed: int

    def name(self) -> str:
        """As a study names its cells."""
        share = f"+data_share={self.share:g}" if self.share < 1 else ""
        return f"smol-merge+training.learning_rate={self.rate:g}{share}+training.seed={self.seed}"

    def log_perplexity(self, generator: np.random.Generator) -> float:
        """The best rate is best, and twice the data lower it by 0.05."""
        distance = abs(math.log10(self.rate / BEST_RATE))
        return 2.4 + 0.15 * distance - 0.05 * math.log2(self.share) + generator.normal(0, SEED_SD)


def cells_of(cells: int) -> list[Cell]:
    """The cells of one of the grids."""
    rates, shares, seeds = GRIDS[cells]
    return list(itertools.starmap(Cell, itertools.product(rates, shares, range(seeds))))


def synthetic_study(cells: int, rows: int = 120, missing: int = 0) -> MakeReport:
    """The request for a report of that many cells, of which the last `missing` have failed."""
    generator = np.random.default_rng(cells)
    ids = {name: [f"{name}-{row:032x}" for row in range(rows)] for name in SETS}
    hard = {name: generator.normal(0, 0.4, rows) for name in SETS}
    tokens = {name: generator.integers(8, 40, rows) for name in SETS}

    def drawn(level: float) -> dict[str, Rows]:
        noise = generator.normal(0, 0.03, (len(SETS), rows))
        return {
            name: {
                row: (float(max(0.1, level + hard[name][i] + of_set[i]) * count), int(count))
                for i, (row, count) in enumerate(zip(ids[name], tokens[name], strict=True))
            }
            for name, of_set in zip(SETS, noise, strict=True)
        }

    *grid, base = *cells_of(cells), Cell(BEST_RATE, 1.0, 0)
    kept = grid[: cells - missing]
    models = [_answering(model("base", _variant(base, "base"), drawn(3.1)))]
    for cell in kept:
        likelihoods = drawn(cell.log_perplexity(generator))
        variant = _variant(cell, cell.name())
        models.append(_answering(model(cell.name(), variant, likelihoods, _training(cell))))
    return MakeReport(
        study=f"{cells} cells",
        models=tuple(models),
        examples={},
        heldout={name: heldout(of_set) for name, of_set in ids.items()},
        missing=tuple(
            MissingCell(
                name=cell.name(),
                reason="the loss is not a number at step 12; lower training.learning_rate.",
            )
            for cell in grid[cells - missing :]
        ),
    )


def _variant(cell: Cell, name: str) -> Variant:
    settings: dict[str, Any] = {
        "name": name,
        "base_model": {"repo": "owner/base"},
        "datasets": [{"name": data, "path": f"{data}.jsonl"} for data in SETS],
        "training": {"learning_rate": cell.rate, "seed": cell.seed},
        "data_share": cell.share,
        "evaluation": {"bootstrap_samples": 200, "panel_rows": 0},
    }
    return Variant.model_validate(settings)


def _training(cell: Cell) -> dict[str, Any]:
    """What an adapter's manifest records of it."""
    rows, steps = round(ALL_ROWS * cell.share), round(200 * cell.share)
    noise = np.random.default_rng(cell.seed).normal(0, 0.05, steps)
    return {
        "wall_s": 40 + 600 * cell.share + cell.seed,
        "trained_tokens": 150 * rows,
        "tokens_per_s": 240.0,
        "peak_memory_bytes": 1_910_000_000 + rows,
        "optimizer_steps": steps,
        "trainable_parameters": 460_800,
        "rows_trained": rows,
        "scored_tokens": 60 * rows,
        "epochs": 1.0,
        "device": "2 CPU cores",
        "versions": {"torch": "2.9.1"},
        "loss_history": [
            {
                "step": step + 1,
                "epoch": (step + 1) / steps,
                "loss": 2.2 + 1.5 * math.exp(-step * cell.rate * 100) + float(noise[step]),
            }
            for step in range(steps)
        ],
    }


def _answering(measured: Measured) -> Measured:
    """The model with an answer to every prompt."""
    answers = [
        {
            "prompt_id": f"p{place}",
            "asked": "template",
            "instruction": prompt,
            "input": "",
            "text": f"An answer of {measured.name}, which is a sentence and a half long, about it.",
            "tokens": 21,
            "stop": "eos",
        }
        for place, prompt in enumerate(PROMPTS)
    ]
    request = Tables(texts={"answers.json": json.dumps(answers)}, details={"device": "a CPU"})
    return measured.model_copy(update={"generations": store().get_or_build(request)})

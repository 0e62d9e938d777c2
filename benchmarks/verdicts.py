"""How often a verdict errs: simulated studies without a difference, and with one of 2 seed SDs.

Rows are as difficult as rows are (gamma), and as long as replies are (log-normal). Seeds move
figures by 0.0096 nats a token, as they moved those of five trainings of `smol-dialog`. The methods:

- rows, one seed: the paired bootstrap over rows of two trainings, as a report of one seed has it
- rows, all seeds: the same of the means over seeds
- hierarchical bootstrap: rows and seeds are resampled (Davison and Hinkley 1997, section 3.8)
- own variance: chatpipe.statistics with each configuration's own variance of seeds (Welch)
- verdicts: chatpipe.statistics

    python -m benchmarks.verdicts [--studies 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chatpipe.statistics.noise import NoiseModel
from chatpipe.statistics.paired_rows import Floats, PairedRows
from chatpipe.statistics.verdicts import compare

SEED_SD = 0.0096
RESAMPLES = 500


class Design(NamedTuple):
    """A study: configurations, seeds of each, held-out rows.

    spread: each configuration's SD between seeds, as a multiple of SEED_SD; all 1 where empty.
    effect: SD over rows of what a configuration changes in single rows, nats a token."""

    configurations: int
    seeds: int
    rows: int
    spread: tuple[float, ...] = ()
    effect: float = 0.0

    def __str__(self) -> str:
        text = f"{self.configurations} configurations, {self.seeds} seeds, {self.rows:,} rows"
        if self.spread:
            text += f", seed SDs {':'.join(f'{sd:g}' for sd in self.spread)}"
        return text + (f", row effects {self.effect:g}" if self.effect else "")


DESIGNS = (
    Design(2, 5, 1000),
    Design(3, 5, 1000),
    Design(4, 5, 300),
    Design(2, 3, 300),
    Design(6, 3, 300),
    Design(3, 5, 1000, effect=0.1),
    Design(2, 5, 1000, (4, 1)),
    Design(4, 5, 300, (3, 3, 1, 1)),
    Design(6, 3, 300, (2, 2, 1, 1, 1, 1)),
)


def simulate(design: Design, gap: float, generator: np.random.Generator) -> PairedRows:
    """Return a study whose second configuration is `gap` seed SDs worse than the others."""
    count, seeds, rows, spread, effect = design
    tokens = np.maximum(generator.lognormal(3, 0.8, rows).round(), 1)
    difficulty = generator.gamma(2, 1, rows)
    own_sd = np.array(spread or [1.0] * count) * SEED_SD
    shift = np.zeros(count)
    shift[1] = gap * float(np.sqrt(np.mean(own_sd[:2] ** 2)))
    per_token = (
        difficulty
        + effect * generator.standard_normal((count, 1, rows))
        + shift[:, None, None]
        + own_sd[:, None, None] * generator.standard_normal((count, seeds, 1))
        + 0.2 * generator.standard_normal((count, seeds, rows)) / np.sqrt(tokens)
    )
    return PairedRows(
        configurations=tuple(f"configuration {place}" for place in range(count)),
        members=np.repeat(np.arange(count), seeds),
        seeded=np.ones(count, np.bool_),
        ids=np.arange(rows).astype(str),
        nats=(per_token * tokens).reshape(count * seeds, rows),
        units=tokens,
        unit="tokens",
    )


class Resampled(NamedTuple):
    """A study, and the figure of each run on resampled rows, (resamples, runs)."""

    study: PairedRows
    means: Floats
    generator: np.random.Generator

    @classmethod
    def of(cls, study: PairedRows, generator: np.random.Generator) -> Resampled:
        rows = len(study)
        drawn = generator.integers(0, rows, (RESAMPLES, rows))
        places = drawn + rows * np.arange(RESAMPLES)[:, None]
        counts = np.bincount(places.ravel(), minlength=RESAMPLES * rows).reshape(RESAMPLES, rows)
        weights = counts.astype(np.float64)
        return cls(study, (weights @ study.nats.T) / (weights @ study.units)[:, None], generator)


def by_verdicts(resampled: Resampled) -> bool:
    return _verdict_differs(NoiseModel.of(resampled.study))


def by_own_variance(resampled: Resampled) -> bool:
    study = resampled.study
    noise = NoiseModel.of(study)
    means = study.nats.sum(-1) / study.units.sum()
    count = len(study.configurations)
    variance = np.array([means[study.members == place].var(ddof=1) for place in range(count)])
    return _verdict_differs(
        replace(noise, seed_variance=variance / noise.runs, seed_df=noise.runs - 1.0, pooled=False)
    )


def _verdict_differs(noise: NoiseModel) -> bool:
    first, second, *_ = noise.configurations
    return compare(noise, [(first, second)])[0].verdict != "not distinguishable"


def by_first_seed(resampled: Resampled) -> bool:
    first, second = (np.argmax(resampled.study.members == place) for place in range(2))
    return _leaves_out_zero(resampled.means[:, first] - resampled.means[:, second])


def by_rows(resampled: Resampled) -> bool:
    study, means, _ = resampled
    first, second = (means[:, study.members == place].mean(-1) for place in range(2))
    return _leaves_out_zero(first - second)


def by_hierarchical_bootstrap(resampled: Resampled) -> bool:
    study, means, generator = resampled
    sides: list[Floats] = []
    for place in range(2):
        of_seeds = means[:, study.members == place]
        seeds = generator.integers(0, of_seeds.shape[1], of_seeds.shape)
        sides.append(np.take_along_axis(of_seeds, seeds, -1).mean(-1))
    return _leaves_out_zero(sides[0] - sides[1])


def _leaves_out_zero(drawn: Floats) -> bool:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return bool(low > 0 or high < 0)


METHODS: dict[str, Callable[[Resampled], bool]] = {
    "rows, one seed": by_first_seed,
    "rows, all seeds": by_rows,
    "hierarchical bootstrap": by_hierarchical_bootstrap,
    "own variance": by_own_variance,
    "verdicts": by_verdicts,
}


def shares(design: Design, gap: float, studies: int) -> dict[str, float]:
    """Return the share of studies in which each method calls the first two different."""
    generator = np.random.default_rng(0)
    called = dict.fromkeys(METHODS, 0)
    for _ in range(studies):
        resampled = Resampled.of(simulate(design, gap, generator), generator)
        for name, method in METHODS.items():
            called[name] += method(resampled)
    return {name: count / studies for name, count in called.items()}


def all_pairs_share(design: Design, studies: int) -> float:
    """Return the share of studies without a difference in which some pair is called different."""
    generator = np.random.default_rng(1)
    wrong = sum(
        any(
            pair.verdict != "not distinguishable"
            for pair in compare(NoiseModel.of(simulate(design, 0, generator)))
        )
        for _ in range(studies)
    )
    return wrong / studies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for design in DESIGNS:
        started = time.monotonic()
        result = {
            "design": str(design),
            "no_difference": shares(design, 0, options.studies),
            "gap_of_2_sd": shares(design, 2, options.studies),
            "no_difference_all_pairs": all_pairs_share(design, options.studies),
        }
        results.append(result)
        print(f"{design} ({time.monotonic() - started:.0f} s)")
        for name in METHODS:
            without, with_gap = result["no_difference"][name], result["gap_of_2_sd"][name]
            print(f"  {name:24}{without:8.1%} wrongly called different{with_gap:8.1%} found")
        print(f"  {'all pairs, by Holm':24}{result['no_difference_all_pairs']:8.1%}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

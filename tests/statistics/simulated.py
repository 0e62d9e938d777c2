"""Simulated studies: scores of configurations that differ by what a test says."""

import numpy as np

from chatpipe.statistics import Run

SEED_SD = 0.01


def simulated_runs(generator, values, seeds=5, rows=200, seed_sd=SEED_SD, row_effect=0.0):
    """One run for each seed of each configuration; `values` maps its name to its log-perplexity.

    row_effect: SD over rows of what a configuration changes in single rows.
    """
    tokens = np.maximum(generator.lognormal(3, 0.8, rows).round(), 1)
    difficulty = generator.gamma(2, 1, rows)
    ids = np.array([f"row-{place:05d}" for place in range(rows)])
    runs = []
    for name, value in values.items():
        effect = row_effect * generator.standard_normal(rows)
        for seed in range(seeds):
            residual = 0.1 * generator.standard_normal(rows) / np.sqrt(tokens)
            noise = seed_sd * generator.standard_normal()
            per_token = difficulty + value + effect + noise + residual
            runs.append(Run(name, seed, ids, per_token * tokens, tokens))
    return runs

"""Perplexity and bits per byte, from each row's negative log-likelihood in nats.

ours:  exp(Σ nats / Σ tokens), over response and EOS.
paper: (1/N) Σ_i exp(nats_i / tokens_i), over all tokens of the paper's template
       ("Building a simple ChatGPT", 2023: the mean of the sentences' own perplexities).
bits per byte: Σ nats / (ln 2 · Σ bytes), over response and EOS; the bytes are the response's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# (nats, tokens or bytes), each (..., rows) -> (...)
Measure = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Metric:
    """A measure, and which tokens of a row it counts."""

    measure: Measure
    labels: Literal["response", "all"]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % bootstrap interval over rows; None where one row has none to show."""

    value: float
    low: float | None
    high: float | None


def perplexity(nats: Floats, tokens: Floats) -> Floats:
    """exp(Σ nats / Σ tokens) along the last axis."""
    return np.asarray(np.exp(nats.sum(-1) / tokens.sum(-1)))


def paper_perplexity(nats: Floats, tokens: Floats) -> Floats:
    """The mean over rows of exp(nats / tokens) along the last axis."""
    return np.asarray(np.exp(nats / tokens).mean(-1))


def bits_per_byte(nats: Floats, reply_bytes: Floats) -> Floats:
    """Σ nats / (ln 2 · Σ bytes) along the last axis."""
    return np.asarray(nats.sum(-1) / (np.log(2) * reply_bytes.sum(-1)))


def interval(measure: Measure, nats: Floats, tokens: Floats, samples: int, seed: int) -> Interval:
    """The measure and its percentile bootstrap interval (Efron 1979); rows are resampled."""
    if len(nats) < 2:
        return Interval(float(measure(nats, tokens)), None, None)
    drawn = [measure(nats[rows], tokens[rows]) for rows in _resamples(len(nats), samples, seed)]
    return _interval(float(measure(nats, tokens)), np.concatenate(drawn))


def difference(
    measure: Measure,
    pair: tuple[Floats, Floats],
    tokens: Floats,
    samples: int,
    seed: int,
) -> Interval:
    """measure(first) − measure(second) on the same rows, with its paired bootstrap interval:
    both models are measured on the same resampled rows, so what rows vary cancels out."""
    first, second = pair
    value = float(measure(first, tokens) - measure(second, tokens))
    if len(first) < 2:
        return Interval(value, None, None)
    drawn = [
        measure(first[rows], tokens[rows]) - measure(second[rows], tokens[rows])
        for rows in _resamples(len(first), samples, seed)
    ]
    return _interval(value, np.concatenate(drawn))


def _resamples(rows: int, samples: int, seed: int) -> list[NDArray[np.int64]]:
    """Row indices with replacement, (chunk, rows) at a time to bound memory."""
    generator = np.random.default_rng(seed)
    chunk = max(1, min(samples, 5_000_000 // rows))
    sizes = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    return [generator.integers(0, rows, (size, rows)) for size in sizes]


def _interval(value: float, drawn: Floats) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))

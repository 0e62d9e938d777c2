"""Student's t distribution for arrays of degrees of freedom, in numpy alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_TINY = 1e-300
_MAX_TERMS = 500
_MAX_STEPS = 50
_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


def two_sided_p(t: ArrayLike, df: ArrayLike) -> Floats:
    """Return P(|T| ≥ |t|) for T with `df` degrees of freedom; nan where either is nan."""
    t, df = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(df, np.float64))
    known = np.isfinite(df) & ~np.isnan(t)
    p = np.full(t.shape, np.nan)
    p[known] = _incomplete_beta(df[known] / (df[known] + t[known] ** 2), df[known])
    return p


def quantile(probability: ArrayLike, df: ArrayLike) -> Floats:
    """Return the t that T exceeds with 1 − probability, for probabilities from 0.5 to 1."""
    probability, df = np.broadcast_arrays(
        np.asarray(probability, np.float64), np.asarray(df, np.float64)
    )
    tail = np.minimum(2 * (1 - probability), 1.0)
    # Newton's steps for log P(|T| ≥ t) as a function of log t, which is decreasing and concave; a
    # step is at most 1, as a light tail would vanish beyond it.
    target, log_t = np.log(tail), np.zeros(tail.shape)
    log_density = _lgamma((df + 1) / 2) - _lgamma(df / 2) - np.log(df * np.pi) / 2
    for _ in range(_MAX_STEPS):
        t = np.exp(log_t)
        log_p = np.log(np.maximum(_incomplete_beta(df / (df + t**2), df), _TINY))
        log_slope = np.log(2.0) + log_density - (df + 1) / 2 * np.log1p(t**2 / df) + log_t - log_p
        step = np.clip((log_p - target) * np.exp(-log_slope), -1.0, 1.0)
        log_t = log_t + np.where(tail < 1, step, 0.0)
        if np.all(np.abs(step[tail < 1]) < 1e-10):
            break
    return np.where(tail < 1, np.exp(log_t), 0.0)


def _incomplete_beta(x: Floats, df: Floats) -> Floats:
    """Return the regularized incomplete beta function I_x(df/2, 1/2).

    By Lentz's continued fraction (Press et al., Numerical Recipes, 3rd ed., section 6.4), on the
    side where it converges fast.
    """
    a, b = df / 2, np.full(df.shape, 0.5)
    swap = x > (a + 1) / (a + b + 2)
    first, second = np.where(swap, b, a), np.where(swap, a, b)
    inner = np.where(swap, 1 - x, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        front = np.exp(
            _lgamma(a + b)
            - _lgamma(a)
            - _lgamma(b)
            + first * np.log(inner)
            + second * np.log1p(-inner)
        )
    front = np.where((inner <= 0) | (inner >= 1), 0.0, front)
    value = front * _continued_fraction(inner, first, second) / first
    return np.asarray(np.where(swap, 1 - value, value))


def _continued_fraction(x: Floats, a: Floats, b: Floats) -> Floats:
    c = np.ones(x.shape)
    d = 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction = d.copy()
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            fraction = fraction * d * c
        if np.all(np.abs(d * c - 1) < 1e-13):
            break
    return fraction


def _not_zero(values: Floats) -> Floats:
    return np.where(np.abs(values) < _TINY, _TINY, values)

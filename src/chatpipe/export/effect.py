"""How much of what an adapter changes an exported model has.

The adapter moves the log-probabilities of the next token from the base's by d = log p − log b, and
the exported model by e = log q − log b. In the metric of small KL divergences, <x, y> = Σ p (x − x̄)
(y − ȳ), the least squares fit of e by d is <e, d> / <d, d>: 1 for the same adapter, 2 for one of
twice the scale. What rounding adds to e has no reason to point along d, so this tells them apart
where the adapter changes less than rounding does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

EXACT = 0.1  # standard error with which half or twice a scale is told from the right one
TOLERANCE = 0.1  # of a share that is known exactly
ERRORS = 4.0  # standard errors that rounding may be away from 1

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Share:
    """What part of the adapter's effect there is, and its standard error over distributions."""

    value: float
    error: float

    @property
    def is_known(self) -> bool:
        """Whether the error is small enough to tell half or twice the scale."""
        return self.error <= EXACT

    @property
    def is_whole(self) -> bool:
        """Whether it may be 1."""
        return not abs(self.value - 1) > max(TOLERANCE, ERRORS * self.error)

    def words(self) -> str:
        """The share, for a sentence."""
        if not self.is_known:
            return (
                "the adapter changes too little on these prompts for a fault in its scale to show"
            )
        return f"{100 * self.value:z.1f} % of what the adapter changes (± {200 * self.error:.2g} %)"


def share_of(distributions: Iterable[Three]) -> Share:
    """The share of distributions (here, exported, base), each log-probabilities (…, vocabulary);
    the error is that of a ratio of sums."""
    products, squares = [], []
    for here, there, base in distributions:
        product, square = _products(here.double(), there.double(), base.double())
        products.append(product.reshape(-1))
        squares.append(square.reshape(-1))
    if not products:
        return Share(math.nan, math.inf)
    product, square = torch.cat(products), torch.cat(squares)
    total, count = float(square.sum()), len(square)
    if not total > 0 or count < 2:
        return Share(math.nan, math.inf)
    value = float(product.sum()) / total
    residual = float((product - value * square).square().sum())
    return Share(value, math.sqrt(residual * count / (count - 1)) / total)


def _products(
    here: torch.Tensor, there: torch.Tensor, base: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """<e, d> and <d, d>."""
    weight = here.exp()
    own, other = here - base, there - base
    own = own - (weight * own).sum(-1, keepdim=True)
    other = other - (weight * other).sum(-1, keepdim=True)
    return (weight * other * own).sum(-1), (weight * own * own).sum(-1)

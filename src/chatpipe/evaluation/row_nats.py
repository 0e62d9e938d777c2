"""The negative log-likelihoods of rows, computed in batches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from chatpipe.errors import ModelError
from chatpipe.tokenization.encoder import TokenizedRow

if TYPE_CHECKING:
    from chatpipe.packing.batching import Batching

Result = TypeVar("Result")
# Batching, model, batch, and what is done while a GPU computes → the values of each row.
Compute = Callable[..., list[Result]]

# Tokens that may be read for each that is computed at once, where rows share them: few are kept,
# as there is no backward pass.
MOST_READ = 4


@dataclass(frozen=True)
class RowBatches:
    """Rows in batches, as a model computes them; each row's index is its place among the rows.

    Attributes:
        batching: How the rows of a batch are put together.
        groups: The batches.
        threads: How many batches are computed at once.
    """

    batching: Batching
    groups: list[list[TokenizedRow]]
    threads: int

    @classmethod
    def of(cls, model: Any, rows: Sequence[TokenizedRow], batch_tokens: int) -> RowBatches:
        """Return the rows in batches of at most so many tokens."""
        from chatpipe.models.concurrency import max_threads, thread_count
        from chatpipe.packing.batching import batching_for

        placed = [replace(row, index=place) for place, row in enumerate(rows)]
        batching = batching_for(model)
        most_at_once = max_threads(model) if batching.run_in_threads else 1
        threads = thread_count(placed, batch_tokens, most_at_once)
        most = batch_tokens // threads
        groups = batching.groups(placed, most, threads, MOST_READ * most)
        return cls(batching, groups, threads)

    def part(self, part: int, parts: int) -> RowBatches:
        """Return each `parts`-th batch, from that one on."""
        return replace(self, groups=self.groups[part::parts])

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.groups))

    def digest(self) -> str:
        """Return a digest of which rows are in which batch, and of how many are computed at
        once."""
        places = [[row.index for row in group] for group in self.groups]
        return hashlib.sha256(f"{self.threads} {places}".encode()).hexdigest()

    def nats(self, model: Any, report: Callable[[int], None] | None = None) -> dict[int, float]:
        """Return Σ −log p of the scored tokens of each row, by its place among all rows."""
        from chatpipe.packing.batching import Batching

        return self._by_place(Batching.row_nats, model, report)

    def hits(
        self, model: Any, report: Callable[[int], None] | None = None
    ) -> dict[int, tuple[float, bool]]:
        """As nats, each with whether all of the row's scored tokens are the most likely ones."""
        from chatpipe.packing.batching import Batching

        return self._by_place(Batching.row_hits, model, report)

    def _by_place(
        self,
        compute: Compute[Result],
        model: Any,
        report: Callable[[int], None] | None,
    ) -> dict[int, Result]:
        """Return what `compute` gives for each row of a batch, by the row's place."""
        from chatpipe.kernels.fused_layers import fused_layers
        from chatpipe.kernels.lora_inference import active, through

        results: dict[int, Result] = {}
        with self.batching.attention(model), fused_layers(model), through(model, active(model)):
            for group, values in zip(self.groups, self._computed(compute, model), strict=True):
                for row, value in zip(group, values, strict=True):
                    results[row.index] = value
                if report:
                    report(len(results))
        return results

    def _computed(self, compute: Compute[Result], model: Any) -> Iterator[list[Result]]:
        """Yield the values of each batch. While a GPU computes one, the next one is collated and
        copied to it."""
        from chatpipe.models.concurrency import run_in_threads
        from chatpipe.packing.transfer import OneAhead, on_device

        batching = self.batching
        device = next(model.parameters()).device
        if device.type != "cuda":

            def of_group(group: Sequence[TokenizedRow]) -> list[Result]:
                return compute(batching, model, batching.collate(group))

            yield from run_in_threads(of_group, self.groups, self.threads)
            return
        batches = OneAhead(
            iter(self.groups), lambda group: on_device(batching.collate(group), device)
        )
        for batch in batches:
            yield compute(batching, model, batch, batches.fetch)


def row_nats(
    model: Any, rows: Sequence[TokenizedRow], batch_tokens: int, report: Any = None
) -> list[float]:
    """Σ −log p of the scored tokens of each row, in the order of `rows`; ModelError where one is
    not finite.

    Rows do not see each other, so a row's value depends on the others by rounding alone.
    """
    return in_order(RowBatches.of(model, rows, batch_tokens).nats(model, report))


def row_hits(
    model: Any, rows: Sequence[TokenizedRow], batch_tokens: int, report: Any = None
) -> list[tuple[float, bool]]:
    """As row_nats, each with whether all of the row's scored tokens are the most likely ones."""
    scores = RowBatches.of(model, rows, batch_tokens).hits(model, report)
    check_finite([nats for nats, _ in scores.values()])
    return [scores[place] for place in range(len(scores))]


def in_order(nats: dict[int, float]) -> list[float]:
    """Return the values of all rows in their order; ModelError where one is not finite."""
    check_finite(list(nats.values()))
    return [nats[place] for place in range(len(nats))]


def check_finite(nats: Sequence[float]) -> None:
    """ModelError where the model overflowed, as some do in float16."""
    lost = sum(not math.isfinite(value) for value in nats)
    if lost:
        raise ModelError(
            f"{lost:,} of {len(nats):,} texts have no finite likelihood; set "
            "quantization.compute_dtype to float32, or check the model's weights."
        )

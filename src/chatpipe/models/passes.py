"""How a training's rows are divided into forward passes: by its settings or, where these leave it
to the memory model, as large as the device has room for.

Passes change speed and memory alone: an optimizer step is the mean over all its scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatpipe.config.schema import AUTO, Training
from chatpipe.models.memory import Batch, Device, Settings, estimate
from chatpipe.models.placement import may_dequantize, may_share, needs_sharding, plain_tokens
from chatpipe.models.shapes import Shapes

# Beyond the first of these a GPU gains nothing; fewer than the last cost more than checkpointing.
GPU_TOKENS = tuple(range(16384, 0, -1024))
FEW_TOKENS = (768, 512, 256)  # where no more layers can be checkpointed
# More tokens a pass are worth less than a base that is not dequantized again in each of them.
ENOUGH_TOKENS = 4096
EVERY = (0, 4, 2, 1)  # of so many layers one is computed again
# Of what is free: the estimate was never compared with a GPU. Where only checkpointing is decided,
# a GPU may be full; a CPU's estimate is an upper bound (docs/memory.md).
SHARE_OF_TOKENS = 0.85
SHARE = {"cuda": 1.0, "cpu": 1.15}


@dataclass(frozen=True)
class StepRows:
    """What passes depend on of the rows: how many an optimizer step has at most, the tokens of the
    longest, and the share of all tokens that is scored. adapters: how many trainings share passes,
    whose rows these are."""

    count: int
    longest: int
    scored_share: float
    adapters: int = 1

    @classmethod
    def of(cls, training: Training, rows: int, longest: int, scored_share: float) -> StepRows:
        """Return those of a training that has so many rows."""
        return cls(min(training.global_batch_size, rows), longest, scored_share)

    @classmethod
    def together(cls, each: Sequence[StepRows]) -> StepRows:
        """Return those of the passes that trainings share: an upper bound."""
        return cls(
            count=sum(rows.count for rows in each),
            longest=max(rows.longest for rows in each),
            scored_share=max(rows.scored_share for rows in each),
            adapters=len(each),
        )


def largest_pass(
    shapes: Shapes | None, settings: Settings, rows: StepRows, device: Device
) -> Batch:
    """Return the most that is computed at once: as many tokens as are allowed, the longest row
    alone, or all rows of an optimizer step."""
    training = settings.training
    choice = _Choice(shapes, settings, rows, device)
    every = training.gradient_checkpointing
    is_auto = AUTO in (every, training.micro_batch_tokens)
    if shapes is None or device.free_bytes is None or not is_auto:
        return choice.batch(plain_tokens(training), int(every is True))
    return next(choice.fitting(), choice.smallest())


def own_pass(shared: Batch, rows: StepRows) -> Batch:
    """Return the largest pass of one training's rows in passes that it shares with others: no
    larger than alone."""
    tokens = max(rows.longest, min(shared.tokens, rows.longest * rows.count))
    return shared.model_copy(update={"tokens": tokens, "scored": round(tokens * rows.scored_share)})


@dataclass(frozen=True)
class _Choice:
    shapes: Shapes | None
    settings: Settings
    rows: StepRows
    device: Device

    def batch(self, tokens: int, every: int) -> Batch:
        """Return the largest pass where so many tokens are allowed."""
        own_rows = -(-self.rows.count // self.device.count)
        size = max(self.rows.longest, min(tokens, self.rows.longest * own_rows))
        scored = round(size * self.rows.scored_share)
        return Batch(
            tokens=size, scored=scored, checkpoint_every=every, adapters=self.rows.adapters
        )

    def fitting(self) -> Iterator[Batch]:
        """Yield passes for which there is room, the best first: a whole base on every device before
        shares of it, few layers computed again before many, many tokens before few."""
        for shares in self._shares():
            for every in self._every():
                if shares == 1 and not every and self._may_dequantize():
                    yield from self._dequantized()
                for tokens in self._tokens(is_last=every == self._every()[-1]):
                    batch = self.batch(tokens, every)
                    if self._fits(batch, shares):
                        yield batch

    def smallest(self) -> Batch:
        """Return the pass that takes the least memory; it may be too much all the same."""
        return self.batch(self._tokens(is_last=True)[-1], self._every()[-1])

    def _dequantized(self) -> Iterator[Batch]:
        """Yield passes with room for a dequantized base, that are large enough to prefer it."""
        for tokens in self._tokens():
            batch = self.batch(tokens, 0)
            is_enough = tokens >= ENOUGH_TOKENS or batch.tokens < tokens
            if is_enough and self._fits(batch, 1, dequantized=True):
                yield batch

    def _fits(self, batch: Batch, shares: int, dequantized: bool = False) -> bool:
        assert self.shapes is not None and self.device.free_bytes is not None
        needed = estimate(self.shapes, self.settings, batch, self.device, shares, dequantized)
        share = SHARE_OF_TOKENS if self._chooses_tokens else SHARE[self.device.kind]
        return needed.total <= share * self.device.free_bytes

    @property
    def _chooses_tokens(self) -> bool:
        is_auto = self.settings.training.micro_batch_tokens == AUTO
        return is_auto and self.device.kind == "cuda"

    def _tokens(self, is_last: bool = False) -> tuple[int, ...]:
        if self._chooses_tokens:
            return GPU_TOKENS + FEW_TOKENS if is_last else GPU_TOKENS
        return (plain_tokens(self.settings.training),)

    def _every(self) -> tuple[int, ...]:
        checkpointing = self.settings.training.gradient_checkpointing
        return EVERY if checkpointing == AUTO else (int(checkpointing is True),)

    def _shares(self) -> tuple[int, ...]:
        """Return into how many shares the base may be divided, whole first."""
        if not may_share(self.settings, self.device) or not needs_sharding(True):
            return (1,)
        return (self.device.count,) if needs_sharding(False) else (1, self.device.count)

    def _may_dequantize(self) -> bool:
        return may_dequantize(self.settings.quantization, self.device)

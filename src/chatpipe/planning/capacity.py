"""Whether a training fits: its rows into the base's positions, its memory, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chatpipe.config.schema import BaseModelRef, Training, Variant
from chatpipe.models.memory import Batch, Device, MemoryEstimate, base_bytes
from chatpipe.models.passes import StepRows, largest_pass
from chatpipe.models.placement import fit
from chatpipe.models.shapes import Shapes
from chatpipe.planning.cost import MADE_OF_ROWS, Need, adapter_bytes, hub_cache, lacking_room
from chatpipe.planning.result import Messages
from chatpipe.planning.rows import Data
from chatpipe.planning.token_stats import Tokens
from chatpipe.sources.metadata import SourceMetadata
from chatpipe.store.paths import home

CERTAIN = 1.15  # an estimate that is this many times what is free is refused


def check_positions(
    training: Training, tokens: Tokens | None, shapes: Shapes, messages: Messages
) -> None:
    """Compare the longest row with the positions that the base was made for."""
    if shapes.positions is None:
        return
    made_for = f"the base was made for {shapes.positions:,}"
    if tokens and tokens.longest > shapes.positions:
        messages.faults.append(
            f"training.max_length: the longest row has {tokens.longest:,} tokens, {made_for}; "
            "lower max_length to that."
        )
    elif tokens is None and training.max_length > shapes.positions:
        messages.notes.append(
            f"training.max_length: rows may have {training.max_length:,} tokens, {made_for}; if "
            "any has more than that, the run will be refused."
        )


def rows_of_a_planned_step(training: Training, tokens: Tokens | None) -> StepRows:
    """Return what passes depend on of a training's rows; those of unknown length count as
    max_length."""
    if tokens is None:
        return StepRows(training.global_batch_size, training.max_length, 1.0)
    return StepRows.of(training, tokens.rows, tokens.longest, tokens.trained_share)


@dataclass(frozen=True)
class Capacity:
    """Compares what a training needs with what this machine has. A run whose adapter is stored
    (`is_trained`) is not refused for memory."""

    variant: Variant
    device: Device
    is_trained: bool
    messages: Messages

    def memory(self, shapes: Shapes, tokens: Tokens | None) -> MemoryEstimate:
        """Estimate the peak of the training; say if it is more than the device has free."""
        batch = self._largest_pass(shapes, tokens)
        needed = fit(shapes, self.variant, batch, self.device)
        free = self.device.free_bytes
        if needed.shares > 1:
            self._check_main_memory(shapes, needed.shares)
        if not self.is_trained and free is not None and needed.total > free:
            sentence = (
                f"memory: training needs about {needed.total / 2**30:.1f} GiB for "
                f"{batch.tokens:,} tokens at once, {free / 2**30:.1f} GiB are free on "
                f"{self.device.name}; lower training.micro_batch_tokens or max_length, or set "
                "training.gradient_checkpointing to true."
            )
            # Rows of unknown length may all be short, and the estimate is not exact: see
            # docs/memory.md for its distance from measured peaks.
            sure = needed.total if tokens else needed.fixed
            is_fault = sure > CERTAIN * free
            (self.messages.faults if is_fault else self.messages.notes).append(sentence)
        return needed

    def _largest_pass(self, shapes: Shapes, tokens: Tokens | None) -> Batch:
        """Return the largest pass."""
        rows = rows_of_a_planned_step(self.variant.training, tokens)
        return largest_pass(shapes, self.variant, rows, self.device)

    def _check_main_memory(self, shapes: Shapes, shares: int) -> None:
        """Check for room for the whole base in every process, which reads it before it keeps its
        share."""
        import psutil

        size = shares * base_bytes(shapes, self.variant.quantization, self.device)
        free = psutil.virtual_memory().available
        refused = not self.is_trained and size > free
        (self.messages.faults if refused else self.messages.notes).append(
            f"the base is shared among {shares} processes; each first reads all of it "
            f"into main memory ({size / 2**30:.1f} GiB together, {free / 2**30:.1f} GiB are free)"
            + ("; train in fewer processes (CHATPIPE_PROCESSES)." if refused else ".")
        )

    def disk(
        self, upstream: SourceMetadata, data: Data, shapes: Shapes | None, steps: int
    ) -> tuple[Need, ...]:
        """Return the bytes that a run would write; say for which of them a disk has no room."""
        needs = [*_of_base(self.variant.base_model, upstream), *_of_rows(data)]
        if shapes is not None and not self.is_trained:
            size = adapter_bytes(shapes, steps, self.variant.training)
            needs.append(
                Need(
                    what="adapter and checkpoints",
                    path=home(),
                    bytes=size,
                    of_one_training=True,
                )
            )
        needs = [need for need in needs if need.bytes]
        self.messages.faults += lacking_room(needs)
        return tuple(needs)


def _of_base(base: BaseModelRef, upstream: SourceMetadata) -> Iterator[Need]:
    of = base.model_dump_json()
    fetched_to = home() if upstream.is_fetched_to_store else hub_cache()
    yield Need(what="base model", of=of, path=fetched_to, bytes=upstream.download_bytes or 0)
    yield Need(what="base model, unpacked", of=of, path=home(), bytes=upstream.unpacked_bytes)


def _of_rows(data: Data) -> Iterator[Need]:
    for rows in data.datasets:
        size = MADE_OF_ROWS * rows.files_bytes
        yield Need(what="data sets", of=rows.name, path=hub_cache(), bytes=rows.download_bytes or 0)
        yield Need(what="rows", of=rows.name, path=home(), bytes=size)

"""A model's negative log-likelihood of every held-out row, in nats."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.config.prompts import template
from chatpipe.config.schema import Quantization, Variant
from chatpipe.errors import DataError, ModelError
from chatpipe.formats.base import counted_reasons
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.positions import check_positions
from chatpipe.runtime.progress import Reporter
from chatpipe.store.artifact import Artifact, Request
from chatpipe.tokenization.encoder import TOO_LONG, Encoder, Tokenized, TokenizedRow

if TYPE_CHECKING:
    from chatpipe.packing.batching import Batch, Batching

Result = TypeVar("Result")

# Tokens that may be read for each that is computed at once, where rows share them: few are kept,
# as there is no backward pass.
MOST_READ = 4


class Score(Request):
    """One model on one held-out set; no adapter means the base itself."""

    kind: ClassVar[str] = "scores"
    version: ClassVar[int] = 8
    oom_hint: ClassVar[str] = "lower evaluation.batch_tokens"

    base: Artifact
    adapter: Artifact | None
    heldout: Artifact
    prompt_template: AnyTemplate
    quantization: Quantization
    max_length: int
    batch_tokens: int

    @classmethod
    def of(cls, variant: Variant, model: ModelRef, heldout: Artifact) -> Score:
        """Return the request for that model on that set, with the variant's settings."""
        return cls(
            base=model.base,
            adapter=model.adapter,
            heldout=heldout,
            prompt_template=variant.prompt_template,
            quantization=variant.quantization,
            max_length=variant.evaluation.max_length,
            batch_tokens=variant.evaluation.batch_tokens,
        )

    def heldout_rows(self) -> pa.Table:
        """Return the rows that are scored, and those too long to score."""
        return pq.read_table(self.heldout.path / "heldout.parquet")

    def encoded(self, table: pa.Table, tokenizer: Any) -> dict[str, Tokenized]:
        """Return the rows' tokens for each counting ("all", "response": every reply, whatever
        training scores).

        Raises DataError where no row fits, ModelError where one is too long for the base, and
        ConfigError where the template does not work with it.
        """
        kinds = {
            # The paper's figure is over its own template, whatever this variant was trained on.
            "all": Encoder(tokenizer, template("paper"), "all", self.max_length),
            "response": Encoder(tokenizer, self.prompt_template, "every_reply", self.max_length),
        }
        encoded = {kind: encoder.encode(table) for kind, encoder in kinds.items()}
        self._check_any_row(encoded)
        longest = max(tokenized.longest for tokenized in encoded.values())
        remedy = "lower evaluation.max_length"
        check_positions(self.base.path, longest, "the longest held-out row", remedy)
        return encoded

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe.models import inference, loading

        started = time.monotonic()
        table = self.heldout_rows()
        encoded = self.encoded(table, loading.load_tokenizer(self.base.path))
        adapters = [self.adapter] if self.adapter else []
        # Together: where both templates make the same of a row, it is computed once.
        examples = [example for rows in encoded.values() for example in rows.examples]
        report = Reporter(len(examples), "rows")
        with inference.recorded_model(self.base, adapters, self.quantization) as (model, details):
            nats = iter(row_nats(model, examples, self.batch_tokens, report))
        columns = [
            _column(kind, table, tokenized, list(islice(nats, len(tokenized.examples))))
            for kind, tokenized in encoded.items()
        ]
        pq.write_table(pa.concat_tables(columns), into / "nats.parquet")
        left_out = {kind: t.left_out for kind, t in encoded.items() if t.left_out}
        return {
            "wall_s": round(time.monotonic() - started, 3),
            "left_out": left_out,
            "replies_scored": encoded["response"].scored_replies,
            **details,
        }

    def _check_any_row(self, encoded: Mapping[str, Tokenized]) -> None:
        """DataError where a counting has no row."""
        for rows in encoded.values():
            if rows.row_count:
                continue
            if rows.left_out.keys() <= {TOO_LONG}:
                fault = f"no held-out row fits into evaluation.max_length {self.max_length}"
                raise DataError(f"{fault}.")
            reasons = counted_reasons(rows.left_out)
            raise DataError(f"no held-out row can be scored ({reasons}).")


def row_nats(
    model: Any, rows: Sequence[TokenizedRow], batch_tokens: int, report: Any = None
) -> list[float]:
    """Σ −log p of the scored tokens of each row, in the order of `rows`; ModelError where one is
    not finite.

    Rows do not see each other, so a row's value depends on the others by rounding alone.
    """
    from chatpipe.packing.batching import Batching

    nats = _computed(Batching.row_nats, model, rows, batch_tokens, report)
    _check_finite(nats)
    return nats


def row_hits(
    model: Any, rows: Sequence[TokenizedRow], batch_tokens: int, report: Any = None
) -> list[tuple[float, bool]]:
    """As row_nats, each with whether all of the row's scored tokens are the most likely ones."""
    from chatpipe.packing.batching import Batching

    scores = _computed(Batching.row_hits, model, rows, batch_tokens, report)
    _check_finite([nats for nats, _ in scores])
    return scores


def _computed(
    compute: Callable[[Batching, Any, Batch], list[Result]],
    model: Any,
    rows: Sequence[TokenizedRow],
    batch_tokens: int,
    report: Any,
) -> list[Result]:
    """Return what `compute` gives for each row of a batch, in the order of `rows`."""
    from accelerate.utils import send_to_device

    from chatpipe.kernels.liger import fused_layers
    from chatpipe.kernels.lora_inference import active, through
    from chatpipe.models.concurrency import max_threads, run_in_threads, thread_count
    from chatpipe.packing.batching import batching_for

    placed = [replace(row, index=place) for place, row in enumerate(rows)]
    results: dict[int, Result] = {}
    device = next(model.parameters()).device
    batching = batching_for(model)
    most_at_once = max_threads(model) if batching.run_in_threads else 1
    threads = thread_count(placed, batch_tokens, most_at_once)
    most = batch_tokens // threads
    groups = batching.groups(placed, most, threads, MOST_READ * most)

    def of_group(group: Sequence[TokenizedRow]) -> list[Result]:
        return compute(batching, model, send_to_device(batching.collate(group), device))

    done = 0
    with batching.attention(model), fused_layers(model), through(model, active(model)):
        for group, values in zip(groups, run_in_threads(of_group, groups, threads), strict=True):
            for row, value in zip(group, values, strict=True):
                results[row.index] = value
            done += len(group)
            if report:
                report(done)
    return [results[place] for place in range(len(placed))]


def _check_finite(nats: Sequence[float]) -> None:
    """ModelError where the model overflowed, as some do in float16."""
    lost = sum(not math.isfinite(value) for value in nats)
    if lost:
        raise ModelError(
            f"{lost:,} of {len(nats):,} texts have no finite likelihood; set "
            "quantization.compute_dtype to float32, or check the model's weights."
        )


def _column(kind: str, table: pa.Table, rows: Tokenized, nats: Sequence[float]) -> pa.Table:
    """id, labels, tokens (those predicted: a first token has nothing before it), nats; a line for
    every row, of all its examples together."""
    ids = table["id"].take(pa.array(rows.row_indices))
    return pa.table(
        {
            "id": ids,
            "labels": [kind] * len(ids),
            "tokens": pa.array(rows.row_scored_tokens),
            "nats": pa.array(rows.by_row_sum(np.asarray(nats, np.float64))),
        }
    )

"""A model's negative log-likelihood of every held-out row, in nats."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.config.prompts import template
from chatpipe.config.schema import Quantization, Variant
from chatpipe.errors import DataError, StepProcessError
from chatpipe.evaluation.row_nats import RowBatches, in_order
from chatpipe.formats.base import counted_reasons
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.positions import check_positions
from chatpipe.runtime.helpers import Helper, Parts
from chatpipe.runtime.processes import PROCESSES
from chatpipe.runtime.progress import Report, Reporter
from chatpipe.store.artifact import Artifact, Request
from chatpipe.tokenization.encoder import TOO_LONG, Encoder, Tokenized, TokenizedRow


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

    def examples(self, encoded: Mapping[str, Tokenized]) -> list[TokenizedRow]:
        """Return the rows of all countings, to be computed together: where both templates make the
        same of a row, it is computed once."""
        return [example for rows in encoded.values() for example in rows.examples]

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe.models import loading
        from chatpipe.models.several_devices import recorded_model_with_helpers

        started = time.monotonic()
        table = self.heldout_rows()
        encoded = self.encoded(table, loading.load_tokenizer(self.base.path))
        examples = self.examples(encoded)
        most = -(-sum(len(row.input_ids) for row in examples) // self.batch_tokens)
        with recorded_model_with_helpers(self.base, self.adapters(), self.quantization, most) as (
            model,
            details,
            helpers,
        ):
            batches = RowBatches.of(model, examples, self.batch_tokens)
            helpers = helpers[: len(batches.groups) - 1]
            details["processes"] = 1 + len(helpers)
            report = _report_of_rows(encoded, batches.row_count)
            nats = iter(in_order(self._nats(model, batches, helpers, report)))
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

    def adapters(self) -> list[Artifact]:
        """Return the adapter, if there is one."""
        return [self.adapter] if self.adapter else []

    def _nats(
        self, model: Any, batches: RowBatches, helpers: Sequence[Helper], report: Report
    ) -> dict[int, float]:
        """Return the examples' values, of batches that this process and the helpers share."""
        count = 1 + len(helpers)
        requests = {
            helper: ScorePart(score=self, part=part, parts=count, batches=batches.digest())
            for part, helper in enumerate(helpers, 1)
        }
        with Parts(requests) as parts:
            nats = batches.part(0, count).nats(model, lambda done: report(done + parts.done()))
            own = len(nats)
            for details in parts.details(lambda done: report(own + done)):
                nats |= {int(place): value for place, value in details["nats"]}
        if nats.keys() != set(range(batches.row_count)):
            raise StepProcessError("the parts of the scores are not those of all rows.")
        return nats

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


class ScorePart(Request):
    """A part of a Score, which another process computes on a device of its own: each `parts`-th of
    its batches, from number `part` on."""

    kind: ClassVar[str] = Score.kind
    version: ClassVar[int] = Score.version
    oom_hint: ClassVar[str] = Score.oom_hint

    score: Score
    part: int
    parts: int
    batches: str  # the digest of all batches

    def build(self, into: Path) -> dict[str, Any]:
        """Return the values by the rows' places; nothing is written.

        Raises StepProcessError where this process has other batches: it would round differently.
        """
        from chatpipe.models import inference, loading

        score = self.score
        encoded = score.encoded(score.heldout_rows(), loading.load_tokenizer(score.base.path))
        examples = score.examples(encoded)
        adapters = [adapter.path for adapter in score.adapters()]
        with inference.cached_model(score.base.path, adapters, score.quantization) as model:
            batches = RowBatches.of(model, examples, score.batch_tokens)
            if batches.digest() != self.batches:
                raise StepProcessError(
                    "the rows are in other batches here than in the first process; "
                    f"set {PROCESSES}=1."
                )
            part = batches.part(self.part, self.parts)
            nats = part.nats(model, Reporter(part.row_count, "examples"))
        return {"nats": list(nats.items())}


def _report_of_rows(encoded: Mapping[str, Tokenized], examples: int) -> Report:
    """Return what takes how many of so many examples are computed, and reports that share of the
    held-out rows: a row has an example for each counting, and a conversation may have several."""
    rows = len(np.unique(np.concatenate([one.row_indices for one in encoded.values()])))
    report = Reporter(rows, "rows")
    return lambda done: report(done * rows // examples)


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

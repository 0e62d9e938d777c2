"""A model's own replies to held-out rows, and how alike they are to the rows' replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.config.schema import Generation, Quantization, Variant
from chatpipe.data.hashing import share_order
from chatpipe.generation.batch import Completion
from chatpipe.generation.prompted import CompletePrompts
from chatpipe.generation.row_request import RowRequest
from chatpipe.generation.text_overlap import chrf, exact_match, rouge_l
from chatpipe.models.model_ref import ModelRef
from chatpipe.models.positions import positions_of
from chatpipe.store.artifact import Artifact, Request
from chatpipe.tokenization.encoder import Encoder
from chatpipe.tokenization.token_cache import conversations

NO_ROOM = "no room for generation.max_new_tokens"
FILE = "replies.parquet"


class Reply(Request):
    """One model answers some rows of a held-out set, as many as `rows` says: always the same ones,
    and those of a smaller number are among those of a larger one."""

    kind: ClassVar[str] = "replies"
    version: ClassVar[int] = 1
    oom_hint: ClassVar[str] = "lower generation.max_new_tokens"

    base: Artifact
    adapter: Artifact | None
    heldout: Artifact
    prompt_template: AnyTemplate
    quantization: Quantization
    generation: Generation
    max_length: int
    rows: int

    @classmethod
    def of(cls, variant: Variant, model: ModelRef, heldout: Artifact) -> Reply:
        """Return the request for that model on that set, with the variant's settings."""
        return cls(
            base=model.base,
            adapter=model.adapter,
            heldout=heldout,
            prompt_template=variant.prompt_template,
            quantization=variant.quantization,
            generation=variant.generation,
            max_length=variant.evaluation.max_length,
            rows=variant.evaluation.replies,
        )

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe.models import loading
        from chatpipe.models.several_devices import recorded_model_with_helpers

        tokenizer = loading.load_tokenizer(self.base.path)
        prompts = self.prompts(tokenizer)
        order = sorted(range(len(prompts.ids)), key=lambda row: len(prompts.ids[row]))
        request = self._request(prompts, order)
        with recorded_model_with_helpers(
            self.base, request.adapters, self.quantization, request.batches
        ) as (model, details, helpers):
            answers = request.completions_with(helpers, model, tokenizer)
        completions = dict(zip(order, answers, strict=True))
        table = _table(prompts.table, [completions[row] for row in range(len(order))])
        pq.write_table(table, into / FILE)
        return {"left_out": prompts.left_out, **details}

    def prompts(self, tokenizer: Any) -> Prompts:
        """Return the rows that can be answered, with the token ids that the model goes on from.

        A row that is not scored, because it is too long or the template cannot write it, is not
        answered either.
        """
        table = pq.read_table(self.heldout.path / "heldout.parquet")
        table = table.take(pa.array(np.sort(share_order(table)[: self.rows])))
        encoder = Encoder(tokenizer, self.prompt_template, "every_reply", self.max_length)
        encoded = encoder.encode(table)
        left_out = Counter(encoded.left_out)
        table = table.take(pa.array(encoded.row_indices))
        ids = encoder.prompt_ids(conversations(table)) if table.num_rows else []
        most = self._most_prompt_tokens()
        fits = [most is None or len(row) <= most for row in ids]
        left_out[NO_ROOM] += fits.count(False)
        return Prompts(
            table=table.filter(pa.array(fits, pa.bool_())),
            ids=[row for row, fit in zip(ids, fits, strict=True) if fit],
            stops=frozenset(encoder.renderer.stops),
            left_out={reason: rows for reason, rows in left_out.items() if rows},
        )

    def _most_prompt_tokens(self) -> int | None:
        """The tokens of a prompt that the base reads with the longest answer to it; None for any
        number."""
        from chatpipe.models.base_checks import base_config

        positions = positions_of(base_config(self.base.path))
        return None if positions is None else positions - self.generation.max_new_tokens

    def _request(self, prompts: Prompts, order: Sequence[int]) -> CompletePrompts:
        """Return the prompts of these rows as a request; those of like length need little
        padding."""
        adapter = self.adapter.key if self.adapter else None
        return CompletePrompts(
            base=self.base,
            adapters=(self.adapter,) if self.adapter else (),
            quantization=self.quantization,
            rows=tuple(
                RowRequest(row, prompts.ids[row], adapter, prompts.stops, self.generation)
                for row in order
            ),
        )


@dataclass(frozen=True)
class Prompts:
    """Held-out rows as prompts.

    Attributes:
        table: The rows.
        ids: The token ids of each row's prompt.
        stops: The ids at which a reply ends.
        left_out: Rows that cannot be answered, by reason.
    """

    table: pa.Table
    ids: list[list[int]]
    stops: frozenset[int]
    left_out: dict[str, int]


def _table(rows: pa.Table, completions: list[Completion]) -> pa.Table:
    """A line for each row: its id, both replies, and every measure of the model's."""
    references = rows["output"].to_pylist()
    pairs = [
        (completion.text, reference)
        for completion, reference in zip(completions, references, strict=True)
    ]
    measures = {"exact_match": exact_match, "rouge_l": rouge_l, "chrf": chrf}
    values = {
        name: pa.array([measure(*pair) for pair in pairs], pa.float64())
        for name, measure in measures.items()
    }
    return pa.table(
        {
            "id": rows["id"],
            "reference": rows["output"],
            "text": pa.array([text for text, _ in pairs], pa.string()),
            "stop": pa.array([completion.stop for completion in completions], pa.string()),
            "tokens": pa.array([completion.tokens for completion in completions], pa.int64()),
            **values,
            "characters": pa.array([float(len(text)) for text, _ in pairs], pa.float64()),
            "ends": pa.array([float(c.stop == "eos") for c in completions], pa.float64()),
        }
    )

"""Prompts completed by models of one base, on every device that has the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.schema import Quantization
from chatpipe.errors import StepProcessError
from chatpipe.generation.batch import (
    Completion,
    complete_rows,
    completions_in_order,
    most_new_tokens,
)
from chatpipe.generation.capacity import AT_ONCE
from chatpipe.generation.row_request import RowRequest
from chatpipe.runtime.helpers import Helper, Parts
from chatpipe.runtime.progress import Report, Reporter, after
from chatpipe.store.artifact import Artifact, Request


class CompletePrompts(Request):
    """Prompts, and what completes them; a row's adapter goes by its key. As a request, its product
    is in its details: a helper builds it for the process that joins the parts."""

    kind: ClassVar[str] = "generations"
    version: ClassVar[int] = 1
    oom_hint: ClassVar[str] = "lower generation.max_new_tokens or ask fewer prompts"

    base: Artifact
    adapters: tuple[Artifact, ...]
    quantization: Quantization
    rows: tuple[RowRequest, ...]

    @property
    def batches(self) -> int:
        """How many batches there are at least."""
        return -(-len(self.rows) // AT_ONCE)

    def build(self, into: Path) -> dict[str, Any]:
        """Return the completions; nothing is written."""
        from chatpipe.models import inference, loading

        tokenizer = loading.load_tokenizer(self.base.path)
        adapters = [adapter.path for adapter in self.adapters]
        with inference.cached_model(self.base.path, adapters, self.quantization) as model:
            completions = self.completions(model, tokenizer, self._reporter())
        return {"completions": [[one.text, one.tokens, one.stop] for one in completions]}

    def completions(self, model: Any, tokenizer: Any, report: Report) -> list[Completion]:
        """Complete the prompts by this process alone."""
        return complete_rows(model, tokenizer, self.rows, report)

    def iter_completions(
        self, helpers: Sequence[Helper], model: Any, tokenizer: Any
    ) -> Iterator[list[Completion]]:
        """Yield the completions in the prompts' order: by this process alone as they are there, by
        several a batch of each at a time. Until the iterator has ended or is closed, nothing else
        may use the model."""
        report = self._reporter()
        if not helpers:
            yield from completions_in_order(model, tokenizer, self.rows, report)
            return
        at_once = (1 + len(helpers)) * AT_ONCE
        for begin in range(0, len(self.rows), at_once):
            part = self.between(begin, begin + at_once)
            reported = after(most_new_tokens(self.rows[:begin]), report)
            yield part.completions_with(helpers, model, tokenizer, reported)

    def _reporter(self) -> Reporter:
        return Reporter(most_new_tokens(self.rows), "tokens")

    def completions_with(
        self,
        helpers: Sequence[Helper],
        model: Any,
        tokenizer: Any,
        report: Report | None = None,
    ) -> list[Completion]:
        """As `completions`, each process a part of the prompts, in their order.

        Rows of a batch do not see each other: with other batches an answer differs only where
        rounding decides a near tie.
        """
        report = report or self._reporter()
        own, *others = self.parts(1 + len(helpers))
        with Parts(dict(zip(helpers, others, strict=True))) as parts:
            completions = own.completions(
                model, tokenizer, lambda done: report(done + parts.done())
            )
            reported = after(most_new_tokens(own.rows), report)
            for details in parts.details(reported):
                completions += [Completion(*values) for values in details["completions"]]
        if len(completions) != len(self.rows):
            raise StepProcessError("the parts of the answers are not those to all prompts.")
        return completions

    def parts(self, count: int) -> list[CompletePrompts]:
        """Return parts of nearly the same length, in the prompts' order."""
        bounds = [len(self.rows) * part // count for part in range(count + 1)]
        return [self.between(*pair) for pair in pairwise(bounds)]

    def between(self, start: int, end: int) -> CompletePrompts:
        """Return the request for the prompts from `start` to `end`, with the adapters that they
        need."""
        rows = self.rows[start:end]
        keys = {row.adapter for row in rows}
        adapters = tuple(adapter for adapter in self.adapters if adapter.key in keys)
        return self.model_copy(update={"rows": rows, "adapters": adapters})

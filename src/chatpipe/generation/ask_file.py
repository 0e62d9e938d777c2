"""A file of prompts answered by one model, in a running batch and in the file's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Generation, Variant
from chatpipe.errors import ChatpipeError, ConfigError
from chatpipe.generation.answer_file import ANSWERED_BY, Expected
from chatpipe.generation.ask import Ask
from chatpipe.generation.batch import Completion
from chatpipe.generation.prompt_file import PromptRow, first_faults
from chatpipe.generation.prompted import CompletePrompts
from chatpipe.generation.row_request import RowRequest
from chatpipe.models.model_ref import ModelRef
from chatpipe.tokenization.conversation import Conversation

Answer = dict[str, Any]


class FileAsk:
    """The prompts of a file for one model; nothing is loaded before `answers` is called."""

    def __init__(
        self, variant: Variant, model: ModelRef, generation: Generation, rows: Sequence[PromptRow]
    ) -> None:
        self.name = variant.name
        self.rows = rows
        self._ask = Ask(
            base=model.base,
            adapter=model.adapter,
            prompt_template=variant.prompt_template,
            quantization=variant.quantization,
            panel=(),
            generation=generation,
            asked=("template",),
        )

    def expected(self) -> list[Expected]:
        """Return what the lines of the answers are, in their order."""
        key = self._ask.key()
        return [Expected(row.values, self.name, key) for row in self.rows]

    def prompt_ids(self, path: Path) -> list[list[int]]:
        """Return the token ids of the rows that the model goes on from.

        ConfigError names the rows, with file and line, that the template cannot write or that
        leave no room for an answer.
        """
        from chatpipe.models import loading
        from chatpipe.models.base_checks import base_config
        from chatpipe.models.positions import position_fault, positions_of

        encoder = self._ask.encoder(loading.load_tokenizer(self._ask.base.path))
        positions = positions_of(base_config(self._ask.base.path))
        new_tokens = self._ask.generation.max_new_tokens
        ids: list[list[int]] = []
        faults: list[str] = []
        for row in self.rows:
            try:
                [prompt] = encoder.prompt_ids([Conversation.of(row.prompt)])
            except ChatpipeError as error:
                faults.append(f"{path}: {row.position}: {error}")
                continue
            ids.append(prompt)
            longest = len(prompt) + new_tokens
            text = f"{path}: {row.position}: the prompt with generation.max_new_tokens"
            fault = position_fault(positions, longest, text, "shorten it or lower max_new_tokens")
            faults += [fault] if fault else []
        if faults:
            named = [f"{fault} ({self.name})" for fault in faults]
            raise ConfigError(first_faults(path, named))
        return ids

    def answers(self, ids: Sequence[list[int]], first: int) -> Iterator[list[Answer]]:
        """Yield the answers from that row on in the file's order, as many at a time as are next in
        it. Until the iterator has ended or is closed, nothing else may use the model."""
        from chatpipe.models import loading
        from chatpipe.models.several_devices import recorded_model_with_helpers

        ask = self._ask
        tokenizer = loading.load_tokenizer(ask.base.path)
        stops = frozenset(ask.encoder(tokenizer).renderer.stops)
        adapter = ask.adapter.key if ask.adapter else None
        request = CompletePrompts(
            base=ask.base,
            adapters=(ask.adapter,) if ask.adapter else (),
            quantization=ask.quantization,
            rows=tuple(
                RowRequest(n, row, adapter, stops, ask.generation)
                for n, row in enumerate(ids[first:])
            ),
        )
        by = ask.key()
        with recorded_model_with_helpers(
            ask.base, request.adapters, ask.quantization, request.batches
        ) as (model, _, helpers):
            for completions in request.iter_completions(helpers, model, tokenizer):
                yield [self._answer(row, one, by) for row, one in enumerate(completions, first)]
                first += len(completions)

    def _answer(self, row: int, completion: Completion, by: str) -> Answer:
        return {
            **self.rows[row].values,
            "model": self.name,
            "answer": completion.text,
            "tokens": completion.tokens,
            "stop": completion.stop,
            "settings": self._ask.generation.model_dump(),
            ANSWERED_BY: by,
        }

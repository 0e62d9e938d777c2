"""Whether a base can be scored and asked in its own chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from chatpipe.config.prompt_schema import OWN_CHAT_TEMPLATE, ChatTemplate
from chatpipe.config.schema import Variant
from chatpipe.errors import ConfigError, DataError, ModelError
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.store.artifact import Artifact, Request

VERDICT = "verdict.json"


class TemplateVerdict(BaseModel):
    """Whether the template can be used; fault: why not, in one sentence."""

    model_config = ConfigDict(frozen=True)

    usable: bool = False
    fault: str | None = None

    @classmethod
    def of(cls, check: Artifact) -> TemplateVerdict:
        """Return the verdict of a check; of a placeholder, that the template is not usable."""
        details = check.details()
        return cls.model_validate({key: details[key] for key in cls.model_fields if key in details})


class CheckChatTemplate(Request):
    """A base's own chat template, tried on everything that it would be scored on and asked.

    A variant's template is checked before the run, which it may stop. Nobody asked for this one,
    so it stops nothing: the report goes without it, and says why.
    """

    kind: ClassVar[str] = "template-check"
    version: ClassVar[int] = 1

    scores: tuple[Score, ...]
    ask: Ask

    def build(self, into: Path) -> dict[str, Any]:
        fault = self._fault()
        verdict = TemplateVerdict(usable=fault is None, fault=fault).model_dump()
        (into / VERDICT).write_text(json.dumps(verdict, ensure_ascii=False), "utf-8")
        return verdict

    def _fault(self) -> str | None:
        from chatpipe.models.base_checks import base_config
        from chatpipe.models.loading import load_tokenizer

        base = self.ask.base.path
        tokenizer = load_tokenizer(base)
        try:
            largest = max(self._token_ids(tokenizer))
        except (ConfigError, DataError, ModelError) as error:
            return _without_remedy(str(error))
        rows = getattr(base_config(base).get_text_config(), "vocab_size", None)
        if rows is not None and largest >= rows:
            token = tokenizer.convert_ids_to_tokens(largest)
            return f"{token!r} has the id {largest}, and the base's embedding has {rows} rows."
        return None

    def _token_ids(self, tokenizer: Any) -> Iterator[int]:
        """Yield the ids of all that is scored and asked."""
        for score in self.scores:
            for tokenized in score.encoded(score.heldout_rows(), tokenizer).values():
                for row in tokenized.examples:
                    yield from row.input_ids
        for question in self.ask.questions(tokenizer):
            yield from question.ids


def is_own_template(variant: Variant) -> bool:
    """Whether the variant's template is its base's own chat template, with options or without."""
    template = variant.prompt_template
    return isinstance(template, ChatTemplate) and template.chat == OWN_CHAT_TEMPLATE


def in_own_template(variant: Variant) -> Variant:
    """Return the variant with its base's own chat template."""
    return variant.model_copy(update={"prompt_template": ChatTemplate()})


def _without_remedy(sentence: str) -> str:
    """A fault of a setting, as one of the base: the setting and what to do are left out."""
    fault = sentence.removeprefix("prompt_template: ")
    return f"{fault.rpartition('; ')[0] or fault.rstrip('.')}."

"""The model that is exported, with what its tokenizer and template make of conversations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Quantization, Variant
from chatpipe.export import comparison, prompts
from chatpipe.export.jinja_template import jinja_text
from chatpipe.export.model_files import write_tokenizer
from chatpipe.models.base_checks import base_config
from chatpipe.models.model_ref import ModelRef
from chatpipe.training.model_card import origin


@dataclass(frozen=True)
class Source:
    """The model that is exported."""

    variant: Variant
    model: ModelRef

    @property
    def base(self) -> Path:
        """The directory of the base."""
        return self.model.base.path

    @property
    def adapter(self) -> Path:
        """The directory of the adapter."""
        assert self.model.adapter
        return self.model.adapter.path

    @property
    def base_name(self) -> str:
        """The base, without directories of this machine."""
        return origin({**self.model.base.model_dump(), "details": self.model.base.details()})

    @property
    def file_name(self) -> str:
        """The variant's name as the name of a file."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.variant.name)

    @cached_property
    def tokenizer(self) -> Any:
        """The base's."""
        from chatpipe.models.loading import load_tokenizer

        return load_tokenizer(self.base)

    @cached_property
    def config(self) -> Any:
        """The base's, of its part for text."""
        return base_config(self.base).get_text_config()

    @cached_property
    def encoder(self) -> Any:
        """What turns prompts into token ids, as in training."""
        return prompts.encoder_of(self.tokenizer, self.variant.prompt_template)

    @property
    def stops(self) -> list[int]:
        """Ids at which a reply ends, EOS first."""
        return list(self.encoder.renderer.stops)

    @cached_property
    def jinja(self) -> str:
        """The template that the adapter was trained in."""
        return jinja_text(self.tokenizer, self.variant.prompt_template)

    def write_tokenizer(self, into: Path) -> None:
        """Write the tokenizer's files, with the template of the training in place of the base's."""
        write_tokenizer(self.base, into, self.jinja)

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """Prompts that models are compared on."""
        return prompts.prompt_ids(self.encoder, self.variant.panel)

    @property
    def trained_quantization(self) -> Quantization:
        """The quantization of the training, in the type that its machine computed in: 4-bit weights
        made in another type are other weights."""
        assert self.model.adapter
        quantization = self.variant.quantization
        recorded = self.model.adapter.details().get("compute_dtype", quantization.compute_dtype)
        return quantization.model_copy(update={"compute_dtype": recorded})

    def expected(self, quantization: Quantization) -> list[comparison.Expected]:
        """What chatpipe's own model makes of them."""
        return comparison.expected_replies(
            self.base, self.adapter, quantization, self.prompt_ids, self.stops
        )

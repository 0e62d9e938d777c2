"""The forms that a model is exported in, and what writes each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatpipe.config.schema import Quantization
from chatpipe.export import comparison
from chatpipe.export.card import Card
from chatpipe.export.source import Source
from chatpipe.sources.base_files import read_weights

Form = Literal["adapter", "merged", "gguf", "gguf-lora", "ollama"]
Outtype = Literal["f16", "bf16", "f32", "q8_0"]
# The base as it was published, whatever type this machine computes in.
FULL_PRECISION = Quantization(method="none", compute_dtype="float32")
WEIGHT_BYTES = {"f16": 2, "bf16": 2, "f32": 4, "q8_0": 2}  # at most: some stay in 16 bits
TEMPLATE_FILES = "`chat_template.jinja`, where servers read it"
SCRATCH = ".check"  # a directory of what is only written to be compared


@dataclass(frozen=True)
class Settings:
    """How a model is exported.

    into_original: merged into the base as it was published, not as it was trained against;
    outtype: of GGUF weights; with_base: a LoRA GGUF has its base's GGUF beside it.
    """

    form: Form
    into_original: bool = False
    outtype: Outtype = "f16"
    with_base: bool = False


class Writer:
    """Writes one form of a model."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings

    def check_first(self) -> None:
        """ExportError where the model cannot have this form."""

    def needed_bytes(self) -> int:
        """What is written at most."""
        return sum(file.stat().st_size for file in self.source.adapter.iterdir())

    def memory_bytes(self) -> int:
        """What of main memory is held at once, beside what is small."""
        return 0

    def write(self, into: Path) -> list[str]:
        """Write the files, and compare them; sentences on what was compared."""
        raise NotImplementedError

    def card(self, sentences: list[str]) -> Card:
        """What the model's card tells of this form."""
        ends = [self.source.tokenizer.convert_ids_to_tokens(n) for n in self.source.stops]
        what, use, places = self.described()
        return Card(what, use, places, " or ".join(f"`{end}`" for end in ends), sentences)

    def described(self) -> tuple[str, str, str]:
        """What the form is, how it is used, and where its template is."""
        raise NotImplementedError

    @property
    def merged_into(self) -> str:
        """The base that the adapter was merged into, in words."""
        if self.settings.into_original:
            return (
                "the base as it was published (the adapter was fitted to a 4-bit copy of it, so "
                "this is another model than the one whose figures stand below)"
            )
        if self.source.variant.quantization.method == "none":
            return "the base"
        if self.source.variant.imported:
            return (
                "the base's 4-bit weights, dequantized, on which its figures were measured (it was "
                "trained elsewhere)"
            )
        return "the base's 4-bit weights, dequantized, which it was trained against"

    @property
    def quantization(self) -> Quantization:
        """How the base is held that the adapter is merged into."""
        return FULL_PRECISION if self.settings.into_original else self.source.trained_quantization

    def parameters(self) -> int:
        """Of the base."""
        tensors = read_weights(self.source.base).tensors.values()
        return sum(tensor.elements for tensor in tensors)

    def float32_bytes(self) -> int:
        """Of the base in float32."""
        return 4 * self.parameters()

    def against_training(self, compared: comparison.Comparison | None) -> list[str]:
        """How a model that was merged into the original base compares with the one that was
        trained."""
        if not compared:
            return []
        return [
            "against the base as it was trained on (the adapter was fitted to that one): "
            + compared.sentence("the others")
        ]

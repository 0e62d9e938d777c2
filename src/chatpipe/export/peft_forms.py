"""The forms that transformers and peft load: the adapter, and a merged model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from chatpipe.export import comparison, prompts
from chatpipe.export.forms import TEMPLATE_FILES, Writer
from chatpipe.export.model_files import write_generation_config, write_tokenizer
from chatpipe.store.manifest import MANIFEST, RECORD

_TORCH_TYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}


class AdapterWriter(Writer):
    """The peft adapter as it was stored, with its tokenizer and card."""

    def described(self) -> tuple[str, str, str]:
        return (
            f"A LoRA adapter of {self.source.base_name}, in peft's files.",
            f"Load it with peft on that base{self._as_trained()}, or name it to a server that "
            "loads adapters (`--lora-modules` of vLLM).",
            TEMPLATE_FILES,
        )

    def _as_trained(self) -> str:
        """How the base is held, where that is known of the training."""
        if self.source.variant.imported:
            return ""
        is_nf4 = self.source.variant.quantization.method == "nf4"
        held = "in 4 bits" if is_nf4 else "in full precision"
        return f", {held} as it was trained (TRAINING.md has the code)"

    def write(self, into: Path) -> list[str]:
        for file in self.source.adapter.iterdir():
            if file.is_file() and file.name not in (MANIFEST, RECORD):
                shutil.copyfile(file, into / file.name)
        write_tokenizer(self.source.base, into, self.source.jinja)
        return [
            "the adapter's files are those of the store, and its template writes training's ids."
        ]


class MergedWriter(Writer):
    """Safetensors of the base with the adapter in its weights."""

    def needed_bytes(self) -> int:
        return self.float32_bytes() + super().needed_bytes()

    def described(self) -> tuple[str, str, str]:
        return (
            f"A whole model: {self.source.base_name} with a LoRA adapter added to its weights. It "
            f"was merged into {self.merged_into}.",
            "Load the directory with transformers, vLLM or any other program that reads "
            "safetensors.",
            TEMPLATE_FILES,
        )

    def memory_bytes(self) -> int:
        return self.float32_bytes()

    def write(self, into: Path) -> list[str]:
        import torch

        from chatpipe.export.merged import merged_model

        source = self.source
        expected = source.expected(self.quantization)
        trained = (
            source.expected(source.variant.quantization) if self.settings.into_original else []
        )
        model = merged_model(source.base, source.adapter, self.quantization)
        model.to(getattr(torch, _TORCH_TYPES[self.settings.outtype])).save_pretrained(into)
        del model
        write_tokenizer(source.base, into, source.jinja)
        write_generation_config(into, source.tokenizer, source.stops)
        self._check_template(into)
        written = self._loaded(into)
        compared = comparison.compare_model(expected, written, source.stops)
        comparison.check(compared, comparison.BOUNDS[self.settings.outtype])
        other = comparison.compare_model(trained, written, source.stops) if trained else None
        return [compared.sentence(), *self.against_training(other)]

    def _loaded(self, into: Path) -> Any:
        """The model as anybody would load it."""
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(
            into, dtype=torch.float32, trust_remote_code=False
        ).eval()

    def _check_template(self, into: Path) -> None:
        """ExportError unless the template that a server would read has training's ids."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(into, trust_remote_code=False)
        prompts.check_template(self.source.encoder, tokenizer, tokenizer.get_chat_template())

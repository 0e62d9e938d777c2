"""The forms that llama.cpp loads: a whole model, and an adapter alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatpipe.export import comparison, llama_cpp, prompts
from chatpipe.export.card import licence_text, licences
from chatpipe.export.forms import SCRATCH, WEIGHT_BYTES, Writer
from chatpipe.export.go_template import Messages, frame_of, go_template, modelfile
from chatpipe.training.adapter_files import CHAT_TEMPLATE

UNCHECKED = (
    "not compared: the wheel xllamacpp, which loads GGUF files, is not installed (pip install "
    "xllamacpp)."
)


class GgufWriter(Writer):
    """A whole model as one GGUF file."""

    @property
    def file_name(self) -> str:
        """The GGUF file's."""
        return f"{self.source.file_name}-{self.settings.outtype}.gguf"

    def check_first(self) -> None:
        from chatpipe.export.gguf_architectures import architecture_of

        architecture_of(self.source.config)

    def needed_bytes(self) -> int:
        in_f16 = WEIGHT_BYTES["f16"] if self.settings.outtype == "q8_0" else 0
        weights = (WEIGHT_BYTES[self.settings.outtype] + in_f16) * self.parameters()
        return weights + 2 * super().needed_bytes()

    def memory_bytes(self) -> int:
        return self.float32_bytes()

    def described(self) -> tuple[str, str, str]:
        return (
            f"A whole model for llama.cpp: {self.source.base_name} with a LoRA adapter added to "
            f"its weights ({self.settings.outtype}). It was merged into {self.merged_into}.",
            f"`llama-server -m {self.file_name}`, or any other program that reads GGUF.",
            "the file itself (`tokenizer.chat_template`)",
        )

    def write(self, into: Path) -> list[str]:
        from chatpipe.export.gguf_files import write_model
        from chatpipe.export.merged import float_weights, merged_model

        source, outtype = self.source, self.settings.outtype
        expected = source.expected(self.quantization) if llama_cpp.is_installed() else []
        trained = self._trained_replies()
        header = self.header(into)
        model = merged_model(source.base, source.adapter, self.quantization)
        file = into / self.file_name
        weights = float_weights(model)
        write_model(file, header, source.config, weights, outtype)
        in_f16 = self.compared_in_f16(into, expected, header, weights)
        del model, weights
        if not llama_cpp.is_installed():
            return [UNCHECKED]
        self.check_file_template(file)
        compared = comparison.compare_llama_cpp(expected, file, (), source.stops)
        comparison.check(compared, comparison.BOUNDS[outtype])
        other = comparison.compare_llama_cpp(trained, file, (), source.stops) if trained else None
        sentence = f"{file.name} in llama.cpp: {compared.sentence()}"
        return [sentence, *in_f16, *self.against_training(other)]

    def compared_in_f16(
        self,
        into: Path,
        expected: Sequence[comparison.Expected],
        header: Any,
        weights: Mapping[str, Any],
        adapters: Sequence[Path] = (),
    ) -> list[str]:
        """Compare the same weights in F16, where those of 8 bits may hide what the adapter changes;
        a sentence on it, or none where that is plain."""
        from chatpipe.export.gguf_files import write_model

        outtype = self.settings.outtype
        bounds = comparison.BOUNDS
        if outtype != "q8_0" or not expected or not comparison.is_faint(expected, bounds[outtype]):
            return []
        (into / SCRATCH).mkdir(exist_ok=True)
        file = into / SCRATCH / "in-f16.gguf"
        write_model(file, header, self.source.config, weights, "f16")
        compared = comparison.compare_llama_cpp(expected, file, adapters, self.source.stops)
        file.unlink()
        comparison.check(compared, bounds["f16"])
        return [f"the same weights in F16, as 8 bits may hide the adapter: {compared.sentence()}"]

    def _trained_replies(self) -> list[comparison.Expected]:
        if not (self.settings.into_original and llama_cpp.is_installed()):
            return []
        return self.source.expected(self.source.trained_quantization)

    def header(self, into: Path) -> Any:
        """What the file tells beside the weights, the tokenizer compared with llama.cpp's."""
        from chatpipe.export.gguf_files import Header
        from chatpipe.export.gguf_tokenizer import vocabulary
        from chatpipe.export.gguf_tokenizer_check import checked_vocabulary

        source = self.source
        work = into / SCRATCH
        work.mkdir(exist_ok=True)
        written = vocabulary(
            source.tokenizer, source.config.vocab_size, source.stops, self.adds_bos()
        )
        checked = checked_vocabulary(written, source.tokenizer, work)
        return Header(source.variant.name, checked, source.jinja, self.licence)

    @property
    def licence(self) -> str:
        """The licences of the base and the data, each once, as a file's metadata."""
        return licence_text(licences(self.source.variant, self.source.model))

    def adds_bos(self) -> bool:
        """Whether BOS stands before every prompt of training and every text."""
        from chatpipe.tokenization.text_encoder import start_ids

        bos = self.source.tokenizer.bos_token_id
        begins = all(ids[:1] == [bos] for ids in self.source.prompt_ids)
        return begins and start_ids(self.source.tokenizer) == [bos]

    def check_file_template(self, file: Path) -> None:
        """ExportError unless llama.cpp writes training's ids by the template in the file."""
        pairs = prompts.template_conversations(self.source.encoder)
        answers = llama_cpp.ask(file, conversations=[messages for messages, _ in pairs])
        for (messages, expected), ids in zip(pairs, answers.conversations, strict=True):
            prompts.check_same_ids(messages, ids, expected, self.source.tokenizer)


class GgufLoraWriter(GgufWriter):
    """The adapter as a GGUF file, which llama.cpp applies to a GGUF file of its base."""

    @property
    def file_name(self) -> str:
        return f"{self.source.file_name}-lora.gguf"

    def needed_bytes(self) -> int:
        return super().needed_bytes() + WEIGHT_BYTES[self.settings.outtype] * self.parameters()

    def described(self) -> tuple[str, str, str]:
        return (
            f"A LoRA adapter of {self.source.base_name}, for llama.cpp.",
            f"`llama-server -m BASE.gguf --lora {self.file_name}`. BASE.gguf is a GGUF file of "
            "that base; it brings a template of its own, so name this one with "
            "`--chat-template-file chat_template.jinja`. The adapter was trained on "
            f"{self.merged_into}, and was compared on that.",
            "`chat_template.jinja`",
        )

    def write(self, into: Path) -> list[str]:
        from chatpipe.export.gguf_files import write_adapter, write_model
        from chatpipe.export.merged import adapted_model, base_weights, lora_tensors

        source = self.source
        is_checked = llama_cpp.is_installed()
        expected = source.expected(self.quantization) if is_checked else []
        model = adapted_model(source.base, source.adapter, self.quantization)
        file = into / self.file_name
        (into / CHAT_TEMPLATE).write_text(source.jinja, "utf-8")
        alpha = float(model.peft_config[model.active_adapter].lora_alpha)
        named = (source.variant.name, self.licence)
        write_adapter(file, named, source.config, lora_tensors(model), alpha)
        base_file = into / (f"base-{self.settings.outtype}.gguf")
        if not self.settings.with_base:
            (into / SCRATCH).mkdir(exist_ok=True)
            base_file = into / SCRATCH / base_file.name
        if is_checked or self.settings.with_base:
            weights = base_weights(model)
            [of_base, *_] = licences(source.variant, source.model)
            header = replace(self.header(into), licence=licence_text([of_base]))
            write_model(base_file, header, source.config, weights, self.settings.outtype)
            in_f16 = self.compared_in_f16(into, expected, header, weights, [file])
            del weights
        del model
        if not is_checked:
            return [UNCHECKED]
        self.check_file_template(base_file)
        compared = comparison.compare_llama_cpp(expected, base_file, [file], source.stops)
        comparison.check(compared, comparison.BOUNDS[self.settings.outtype])
        return [f"{file.name} on {base_file.name} in llama.cpp: {compared.sentence()}", *in_f16]


class OllamaWriter(GgufWriter):
    """A whole model as a GGUF file, with a Modelfile for Ollama."""

    def described(self) -> tuple[str, str, str]:
        what, _, _ = super().described()
        use = f"`ollama create {self.source.file_name} -f Modelfile`, in this directory."
        return what, use, "the Modelfile, and in the GGUF file for other programs"

    def check_first(self) -> None:
        super().check_first()
        self._modelfile()

    def write(self, into: Path) -> list[str]:
        (into / "Modelfile").write_text(self._modelfile(), "utf-8")
        return super().write(into)

    def _modelfile(self) -> str:
        tokenizer = self.source.tokenizer
        bos = str(tokenizer.bos_token) if self.adds_bos() else ""
        checked = [messages for messages, _ in prompts.template_conversations(self.source.encoder)]
        template = go_template(frame_of(self._text, checked), bos)
        stops = [str(tokenizer.convert_ids_to_tokens(number)) for number in self.source.stops]
        return modelfile(self.file_name, template, stops, self.source.variant.generation)

    def _text(self, messages: Messages) -> str:
        """What the template of the training writes."""
        text: str = self.source.tokenizer.apply_chat_template(
            list(messages),
            chat_template=self.source.jinja,
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

"""GGUF files: a whole model, a LoRA adapter, and a vocabulary to be tried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatpipe.errors import ExportError
from chatpipe.export.gguf_architectures import (
    ELSEWHERE,
    Architecture,
    architecture_of,
    as_llama_cpp,
    extra_tensors,
    write_settings,
)
from chatpipe.export.gguf_tokenizer import Vocabulary

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter, TensorNameMap

LARGEST_F16 = 65504.0
OUTTYPES = ("f16", "q8_0", "f32")


@dataclass(frozen=True)
class LoraTensor:
    """An adapter's A (rank, inputs) and B (outputs, rank) on one layer, and what B A is multiplied
    by."""

    layer: str
    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Header:
    """What a model's file tells beside its weights. name: of the model; licences: in words."""

    name: str
    vocabulary: Vocabulary
    chat_template: str
    licence: str = ""


def write_model(
    file: Path, header: Header, config: Any, weights: Mapping[str, torch.Tensor], outtype: str
) -> None:
    """Write a whole model; weights: by transformers' names, in float32."""
    import gguf

    architecture = architecture_of(config)
    writer = gguf.GGUFWriter(file, architecture.name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(header.name)
    if header.licence:
        writer.add_license(header.licence)
    writer.add_file_type(_FILE_TYPES[outtype])
    write_settings(writer, config, architecture)
    header.vocabulary.write(writer)
    writer.add_chat_template(header.chat_template)
    names = gguf.get_tensor_name_map(_arch(architecture), config.num_hidden_layers)
    for name, tensor in extra_tensors(config):
        writer.add_tensor(name, tensor.numpy())
    for name, tensor in weights.items():
        if _is_tied_output(name, config):
            continue
        target = _target(names, name)
        _add(writer, target, as_llama_cpp(name, tensor.float(), config, architecture), outtype)
    _write(writer)


def write_adapter(
    file: Path,
    named: tuple[str, str],
    config: Any,
    tensors: Iterator[LoraTensor],
    alpha: float,
) -> None:
    """Write a LoRA adapter, in float32; named: its name, and its licences in words.

    llama.cpp multiplies by alpha / rank, so a layer with another scale has it in its B.
    """
    import gguf
    import numpy as np

    architecture = architecture_of(config)
    writer = gguf.GGUFWriter(file, architecture.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    name, licence = named
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    names = gguf.get_tensor_name_map(_arch(architecture), config.num_hidden_layers)
    for tensor in tensors:
        target = _target(names, f"{tensor.layer}.weight")
        own = alpha / tensor.a.shape[0]
        b = as_llama_cpp(f"{tensor.layer}.weight", tensor.b.float(), config, architecture)
        writer.add_tensor(f"{target}.lora_a", np.ascontiguousarray(tensor.a.float().numpy()))
        writer.add_tensor(
            f"{target}.lora_b", np.ascontiguousarray((b * (tensor.scale / own)).numpy())
        )
    _write(writer)


def write_vocabulary_file(file: Path, vocabulary: Vocabulary) -> None:
    """Write a model of one small layer with that vocabulary, whose tokens llama.cpp can give."""
    import gguf
    import numpy as np

    size, rows = 32, len(vocabulary.tokens)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(size)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary.write(writer)
    square = np.zeros((size, size), np.float16)
    writer.add_tensor("token_embd.weight", np.zeros((rows, size), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(size, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(size, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    _write(writer)


def _is_tied_output(name: str, config: Any) -> bool:
    """Whether it is the embedding under another name, which llama.cpp takes where the file has no
    output layer."""
    return name == "lm_head.weight" and bool(config.tie_word_embeddings)


def _add(writer: GGUFWriter, name: str, tensor: torch.Tensor, outtype: str) -> None:
    """Add a weight in the type of the file; norms and biases stay float32."""
    import gguf
    import numpy as np

    values = np.ascontiguousarray(tensor.numpy())
    if values.ndim < 2 or outtype == "f32":
        writer.add_tensor(name, values)
        return
    largest = float(np.abs(values).max())
    if not largest <= LARGEST_F16:  # nor NaN
        raise ExportError(
            f"{name}: has the value {largest:g}, which float16 cannot hold; {ELSEWHERE}."
        )
    kind = gguf.GGMLQuantizationType.Q8_0
    if outtype == "q8_0" and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        return
    writer.add_tensor(name, values.astype(np.float16))


def _target(names: TensorNameMap, name: str) -> str:
    target = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if target is None:
        raise ExportError(f"{name}: llama.cpp has no such weight; {ELSEWHERE}.")
    return str(target)


def _arch(architecture: Architecture) -> Any:
    import gguf

    return next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)


def _write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # gguf.LlamaFileType

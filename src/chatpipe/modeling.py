"""Tokenizer, quantized base model and adapter, from the directories that artifacts are."""

from __future__ import annotations

import logging
import platform
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

from chatpipe.base_checks import (
    base_config,
    check_base,
    check_tokenizer,
    first_line,
    report_faults,
)
from chatpipe.base_files import json_faults
from chatpipe.config import Quantization
from chatpipe.dequantizing import dequantize_if_it_fits, is_quantized
from chatpipe.errors import ModelError
from chatpipe.finite_weights import check_finite
from chatpipe.unused_gpu import warn_of_unused_gpu

LOG = logging.getLogger(__name__)
_ODD_TEXT = "a 1\n\té☃漢"  # for tokenizers that fail at the first character they do not have
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")


def device() -> torch.device:
    """This process's CUDA device, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    warn_of_unused_gpu()
    return torch.device("cpu")


def device_name() -> str:
    """What people call the device."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def library_versions() -> dict[str, str]:
    """Version of every library that the numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def free_memory_bytes() -> int:
    """What is free now: of the GPU where there is one (what torch keeps unused is free), else of
    main memory."""
    if torch.cuda.is_available():
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + kept
    return int(psutil.virtual_memory().available)


def peak_memory_bytes() -> int:
    """The most memory held so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def compute_dtype(quantization: Quantization) -> torch.dtype:
    """The type that matrix products are computed in."""
    if quantization.compute_dtype != "auto":
        return getattr(torch, quantization.compute_dtype)  # type: ignore[no-any-return]
    if torch.cuda.is_available():
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def load_tokenizer(path: Path) -> Any:
    """The model's tokenizer; ModelError where it cannot be loaded, has no EOS, which a response
    must end with, or does not belong to the weights."""
    faults = json_faults(path)
    if faults:
        raise ModelError(" ".join(faults))
    config = base_config(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer(_ODD_TEXT, add_special_tokens=False, split_special_tokens=True)
    except BaseException as error:  # any, and a panic of the Rust library, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise ModelError(
            f"the tokenizer cannot be loaded: {first_line(error)}; take the tokenizer files that "
            "belong to the base."
        ) from error
    check_tokenizer(tokenizer, config)
    return tokenizer


def load_base(path: Path, quantization: Quantization, place: torch.device | None = None) -> Any:
    """The base model in NF4 (or in full precision), frozen, on this process's device, or there.

    ModelError where its weights are not those that its configuration asks for.
    """
    check_base(path)
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path}: an adapter lies in the base's directory, which transformers would apply; "
            "move it elsewhere."
        )
    check_finite(path)
    dtype = compute_dtype(quantization)
    config = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=dtype,
        )
        if quantization.method == "nf4"
        else None
    )
    model, report = AutoModelForCausalLM.from_pretrained(
        path,
        quantization_config=config,
        dtype=dtype,
        device_map={"": place or device()},
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    faults = report_faults(report)
    if faults:
        raise ModelError("the base model cannot be used: " + " ".join(faults))
    # A base may bring a repetition penalty or a number of beams of its own, which `generate` would
    # take where nothing is said of it: all models are asked in the same way.
    model.generation_config = GenerationConfig()
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def load_fast_base(path: Path, quantization: Quantization) -> Any:
    """As load_base with the same numbers; on a CPU the weights are dequantized once, where memory
    allows, instead of at every product."""
    model = load_base(path, quantization)
    if torch.cuda.is_available():
        return model
    return dequantize_if_it_fits(model, compute_dtype(quantization))


def _load_for_inference(path: Path, quantization: Quantization) -> Any:
    """As load_fast_base, but a base that is too large for the GPU stays in main memory."""
    if torch.cuda.is_available():
        from chatpipe.fitting import exceeds, this_device

        if exceeds(path, quantization, this_device(quantization)):
            LOG.warning(
                "the GPU has no room for this base: its layers stay in main memory and are "
                "fetched for every pass, which is slow."
            )
            return load_streamed_base(path, quantization)
    return load_fast_base(path, quantization)


def load_streamed_base(path: Path, quantization: Quantization) -> Any:
    """As load_base, but the layers stay in main memory, from where they are fetched; without
    gradients."""
    from chatpipe.sharding import stream_base

    model = load_base(path, quantization, torch.device("cpu"))
    stream_base(model, device())
    return model


def load_model(base: Path, adapter: Path | None, quantization: Quantization) -> Any:
    """The base, with the adapter on it where there is one, ready for inference."""
    adapters = {adapter.name: adapter} if adapter else {}
    return _with_adapters(_load_for_inference(base, quantization), adapters)


@contextmanager
def lent_model(base: Path, adapters: Sequence[Path], quantization: Quantization) -> Iterator[Any]:
    """As load_model, on a base that this process keeps for the next models of the same base. Each
    adapter has its directory's name; the first one is on.

    They are taken off again afterwards, so no model leaves a trace in another's figures.
    """
    kept = _kept_base(base, quantization)
    try:
        model = _with_adapters(kept, {path.name: path for path in adapters})
    except BaseException:
        _KEPT.clear()  # an adapter may be on it
        raise
    try:
        yield model
    finally:
        if model is not kept:
            model.unload()


_KEPT: dict[tuple[Path, Quantization], Any] = {}


def _kept_base(path: Path, quantization: Quantization) -> Any:
    if (path, quantization) not in _KEPT:
        _KEPT.clear()  # first: two bases need not fit into memory together
        model = _load_for_inference(path, quantization)
        if not torch.cuda.is_available() and is_quantized(model):
            return model  # its constants are rounded at every move: not to be used twice
        _KEPT[path, quantization] = model
    return _KEPT[path, quantization]


def _with_adapters(model: Any, adapters: Mapping[str, Path]) -> Any:
    if not adapters:
        return model
    from peft import PeftModel

    from chatpipe.sharding import bring

    (first, path), *others = adapters.items()
    adapted = PeftModel.from_pretrained(model, path, adapter_name=first)
    for name, path in others:
        adapted.load_adapter(path, adapter_name=name)
    bring(adapted, device())  # peft puts it where the base's weights are, if only to be fetched
    return adapted.eval()

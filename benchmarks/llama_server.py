"""llama.cpp's server in this process, by the wheel `xllamacpp`: the embedded base in Q4_1, as the
wheel that brings it has it, and adapters as GGUF files, of which each request names its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chatpipe.export.gguf_files import write_adapter
from chatpipe.export.merged import lora_tensors
from chatpipe.sources.wheel import WHEEL_MODELS, wheel_file

CONTEXT = 512  # tokens of a request


def is_installed() -> bool:
    """Whether the wheel is."""
    return find_spec("xllamacpp") is not None


def files(model: Any, adapters: list[str], folder: Path) -> list[Path]:
    """The base's file, and those of the model's adapters of these names."""
    [wheel] = WHEEL_MODELS.values()
    written = [wheel_file(wheel, folder)]
    for name in adapters:
        model.set_adapter(name)
        written.append(folder / f"{name}.gguf")
        alpha = float(model.peft_config[name].lora_alpha)
        write_adapter(written[-1], (name, ""), model.config, lora_tensors(model), alpha)
    return written


def started(files: list[Path], at_once: int, threads: int) -> tuple[str, Any]:
    """The address of a server of these files, and the server, which ends with its object."""
    import xllamacpp

    base, *adapters = files
    settings = xllamacpp.CommonParams()
    settings.model.path = str(base)
    settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in adapters]
    settings.lora_init_without_apply = True  # each request says which is on
    settings.n_parallel = at_once
    settings.n_ctx = CONTEXT * at_once
    settings.n_gpu_layers = 0
    settings.fit_params = False
    settings.verbosity = -1
    for part in (settings.cpuparams, settings.cpuparams_batch):
        part.n_threads = threads
    server = xllamacpp.Server(settings)
    return server.listening_address.rstrip("/"), server

"""A CUDA device that computes nothing, for machines without a GPU.

Fake tensors on it go through the same code as tensors on a GPU: shapes, types and devices are
checked as there, and no number is computed. `preload` has to run before torch is imported, because
torch looks for a CUDA device once; so everything that uses it runs in a process of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
NO_COMPILER = "no C++ compiler (c++) is on the path, which the fake CUDA device is compiled with"


def compiler() -> str | None:
    """Return the C++ compiler, if there is one."""
    return shutil.which("c++")


def library() -> Path:
    """Return the compiled device; it is compiled once for a version of torch and of its source."""
    torch = _torch_directory()
    of_torch, source = (torch / "version.py").read_text("utf-8"), SOURCE.read_text("utf-8")
    version = hashlib.sha256(f"{torch}\n{of_torch}\n{source}".encode()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"chatpipe-fake-cuda-{os.getuid()}"
    path = directory / f"{version}.so"
    if path.is_file():
        return path
    directory.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        compiled = Path(folder) / path.name
        command = [str(compiler()), "-std=c++20", "-O0", "-shared", "-fPIC", str(SOURCE)]
        places = [f"-I{torch}/include", f"-L{torch}/lib", f"-Wl,-rpath,{torch}/lib"]
        libraries = ["-lc10", "-ltorch_cpu", "-o", str(compiled)]
        subprocess.run([*command, *places, *libraries], check=True)
        compiled.replace(path)
    return path


def preload() -> None:
    """Register the device with the torch that this process will import."""
    ctypes.CDLL(str(_torch_directory() / "lib/libtorch_global_deps.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library()), ctypes.RTLD_GLOBAL)


def _torch_directory() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent

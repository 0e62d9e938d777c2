"""What Prefect and the store cost: seconds of a command, of a flow, of a cached study.

    python -m benchmarks.orchestration [--rounds 5]

Needs a finished `chatpipe demo` in CHATPIPE_HOME, and starts a server of its own for the last
figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from benchmarks import harness
from chatpipe.store.artifact import Request
from chatpipe.store.store import Store

NOTHING = "from prefect import flow\n@flow\ndef nothing(): pass\nnothing()"
CLI = ("-m", "chatpipe")
PORT = 4399


class Blob(Request):
    """An artifact of a small adapter's size."""

    kind: ClassVar[str] = "blob"
    version: ClassVar[int] = 1

    number: int

    def build(self, into: Path) -> dict[str, Any]:
        for name in ("a", "b", "c"):
            (into / name).write_bytes(os.urandom(1 << 16))
        return {}


def seconds(command: Sequence[str], rounds: int, **environment: str) -> list[float]:
    """Wall seconds of a Python command, round by round."""
    found = []
    for _ in range(rounds):
        started = time.monotonic()
        subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
        found.append(time.monotonic() - started)
    return found


def verified() -> list[float]:
    """Seconds to verify 100 artifacts on a hit, five times."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        keys = [store.get_or_build(Blob(number=number)).key for number in range(100)]
        found = []
        for _ in range(5):
            started = time.monotonic()
            for key in keys:
                store.find("blob", key)
            found.append(time.monotonic() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    said = subprocess.run([sys.executable, *CLI, "demo"], capture_output=True, text=True)
    if "everything was cached" not in said.stdout:
        raise SystemExit("run `chatpipe demo` first: the cached study is what is measured.")
    found = {
        "chatpipe --help": seconds([*CLI, "--help"], rounds),
        "python, importing Prefect": seconds(["-c", "import prefect.main"], rounds),
        "a flow of nothing, server of its own": seconds(["-c", NOTHING], rounds),
        "the cached demo, server of its own": seconds([*CLI, "demo"], rounds),
        "verifying 100 artifacts": verified(),
    }
    with tempfile.TemporaryDirectory() as service:
        there = {"PREFECT_HOME": service, "CHATPIPE_HOME": service}
        address = {"PREFECT_API_URL": f"http://127.0.0.1:{PORT}/api"}
        try:
            seconds([*CLI, "up", "--port", str(PORT)], 1, **there)
            running = seconds(["-c", NOTHING], rounds, **address)
            found["a flow of nothing, running server"] = running
            found["the cached demo, running server"] = seconds([*CLI, "demo"], rounds, **address)
        finally:
            seconds([*CLI, "down"], 1, **there)
    harness.table(
        "Orchestration, seconds",
        [
            {
                "what": name,
                "median": f"{median(times):.3f}",
                "least": f"{min(times):.3f}",
                "most": f"{max(times):.3f}",
            }
            for name, times in found.items()
        ],
    )
    harness.write(
        "orchestration", f"python -m benchmarks.orchestration --rounds {rounds}", {"seconds": found}
    )


if __name__ == "__main__":
    main()

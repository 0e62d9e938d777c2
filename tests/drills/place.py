"""A place where a whole study is run by the real command: its home, its processes, its outcome."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chatpipe.store.manifest import MANIFEST
from tests.support import prefect_server
from tests.support.rows import alpaca_rows, dialogue_rows, write_jsonl
from tests.support.tiny import tiny_model
from tests.support.variants import ALPACA, DIALOGUES, small_variant, write_settings

STUDY = "drill"
# What a browser would run, and what would break a table, in everything that a user may name.
HOSTILE = "<hostile onload=alert(1)>&\"'`|{{ 7 * 7 }}"
# Of a report: when it was made, and how long its steps took.
# "fronts": which variants no other one beats at the same cost, in seconds of training.
TIMES = frozenset({"created", "wall_s", "tokens_per_s", "peak_memory_bytes", "seconds", "fronts"})
ENDS_WITHIN_S = 60
RUNS_WITHIN_S = 300


def write_study(folder: Path, **settings: Any) -> Path:
    """Two variants on a tiny base, with a checkpoint at every step; the deployments directory."""
    base = tiny_model(folder / f"base {HOSTILE}")
    rows = alpaca_rows(40)
    rows[0] |= {"instruction": HOSTILE, "input": HOSTILE, "output": f"{HOSTILE}\n# {HOSTILE}"}
    write_jsonl(folder / "a.jsonl", rows)
    write_jsonl(folder / "d.jsonl", dialogue_rows(40))
    datasets = (
        {**ALPACA, "path": str(folder / "a.jsonl")},
        {**DIALOGUES, "path": str(folder / "d.jsonl")},
    )
    sections = {
        "lora": {"rank": 4, "dropout": 0.1},
        "training": {"epochs": 1, "learning_rate": 0.01, "global_batch_size": 4, "save_steps": 1},
        "panel": [{"id": "hostile", "instruction": HOSTILE, "input": HOSTILE}],
        **settings,
    }
    deployments = folder / "deployments"
    for path, content in (
        ("variants/one.yaml", small_variant(base, datasets[0], **sections)),
        ("variants/both.yaml", small_variant(base, *datasets, **sections)),
        (f"studies/{STUDY}.yaml", {"variants": ["one", "both"]}),
    ):
        write_settings(deployments / path, content)
    return deployments


@dataclass
class Place:
    """A user's home for one study; `api` is a Prefect server that is there already, or none."""

    home: Path
    deployments: Path
    api: str | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What the command is started with."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CHATPIPE_"))}
        return {
            **plain,
            "CHATPIPE_HOME": str(self.home),
            "CHATPIPE_DEPLOYMENTS": str(self.deployments),
            "PREFECT_HOME": str(self.home.with_name(f"{self.home.name}-prefect")),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **({"PREFECT_API_URL": self.api} if self.api else {}),
            **self.extra,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command in a process group of its own, as a terminal starts it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home.parent / f"{self.home.name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "chatpipe", *(arguments or ("compare", STUDY))],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command to its end, with what it says."""
        self.home.mkdir(parents=True, exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "chatpipe", *(arguments or ("compare", STUDY))],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUNS_WITHIN_S,
        )

    def wait_for(self, command: subprocess.Popen[str], done: Callable[[], bool]) -> None:
        """Until that is so, or the command has ended."""
        deadline = time.monotonic() + RUNS_WITHIN_S
        while not done() and command.poll() is None:
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.02)

    def done(self) -> bool:
        """Whether the study's report is there."""
        return (self.home / "reports" / STUDY / "report.json").exists()

    def log(self) -> str:
        """What started commands have said so far."""
        return (self.home.parent / f"{self.home.name}.log").read_text("utf-8", errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All that were started for this home, by their environment."""
        mine = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                same = process.environ().get("CHATPIPE_HOME") == str(self.home)
                if same and process.status() != psutil.STATUS_ZOMBIE:
                    mine.append(process)
        return mine

    def files_with(self, secret: str) -> list[Path]:
        """Files of this home, of Prefect's, and of the logs, in which the secret stands."""
        roots = (self.home, Path(self.environment["PREFECT_HOME"]))
        files = [file for root in roots for file in root.rglob("*") if file.is_file()]
        files.append(self.home.parent / f"{self.home.name}.log")
        return [file for file in files if file.exists() and secret.encode() in file.read_bytes()]

    def products(self) -> set[Path]:
        """Artifacts and checkpoints that are there now."""
        root = self.home / "store"
        return {*root.glob(f"[!.]*/*/{MANIFEST}"), *root.glob(".work/*/**/checkpoint-*")}

    def left_behind(self) -> list[str]:
        """Processes, held locks, temporary and work directories after the last command."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        while (alive := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        found = [f"process: {' '.join(_command_line(process))}" for process in alive]
        root = self.home / "store"
        found += [f"lock: {lock.name}" for lock in (root / ".locks").glob("*") if _held(lock)]
        for folder in (".tmp", ".work"):
            found += [f"{folder}: {path.name}" for path in (root / folder).glob("*")]
        cache = self.home / "cache" / "tokens"
        found += [f"cache: {path.name}" for path in cache.glob("*") if path.suffix != ".arrow"]
        found += [f"report: {path.name}" for path in (self.home / "reports").glob("*/.*")]
        return found

    def outcome(self) -> dict[str, Any]:
        """The digest of every artifact, and the study's report without its times."""
        artifacts: dict[str, Any] = {}
        for path in sorted((self.home / "store").glob(f"[!.]*/*/{MANIFEST}")):
            manifest = json.loads(path.read_text("utf-8"))
            if manifest["kind"] != "report":
                artifacts[f"{manifest['kind']}/{manifest['key']}"] = manifest["digest"]
        report = (self.home / "reports" / STUDY / "report.json").read_text("utf-8")
        return {"artifacts": artifacts, "report": without_times(json.loads(report))}


@contextmanager
def live_server() -> Iterator[str]:
    """The address of a Prefect server that several places use, one after another or at once."""
    try:
        yield prefect_server.address()
    finally:
        prefect_server.remove()


def without_times(value: Any) -> Any:
    """The same JSON value without what differs between two runs of the same thing."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def descendants(command: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that the command has started, and theirs."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(command.pid).children(recursive=True)
    return []


def builds(command: subprocess.Popen[str]) -> bool:
    """Whether one of the command's processes builds a step now; other commands wait for it."""
    return any(is_worker(process) for process in descendants(command))


def is_worker(process: psutil.Process) -> bool:
    """Whether it is a process in which a step is built."""
    return "chatpipe.runtime.worker" in _command_line(process)


def kill(process: psutil.Process) -> bool:
    """End it as the kernel's memory killer does; whether it was there."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
        return True
    return False


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _held(lock: Path) -> bool:
    with lock.open("r") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

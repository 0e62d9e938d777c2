"""Worker processes for steps with a model: their end frees all memory, and a kill is an error.

`python -m chatpipe.runtime.worker` reads requests from standard input, a JSON line each, and
builds them one after another, so that a base stays loaded for the next request.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chatpipe.errors import StepProcessError, StoppedError
from chatpipe.runtime import oom, parent_death, progress
from chatpipe.runtime.environment import prepare
from chatpipe.runtime.failures import Failure, write_log, written_to
from chatpipe.store.artifact import Request, class_path, request_class
from chatpipe.store.paths import home
from chatpipe.utils.redaction import redact

# How long a process may take to save a checkpoint. After SIGTERM, Prefect's workers wait for 30 s
# and then kill; whoever pressed Ctrl-C may press it again.
SAVED_AFTER_SIGTERM_S = 25.0
SAVED_AFTER_INTERRUPT_S = 120.0
KEPT_LINES = 200

OnProgress = Callable[[progress.Progress], None]
OnLine = Callable[[str], None]


class WorkerProcess:
    """A worker process, as its parent has it: it runs until it is closed.

    It is in the parent's process group, so that a cancelled run's signal reaches it.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        """Start it, with this process's environment and these variables."""
        environment = {**os.environ, "CHATPIPE_CHILD": "1", "CHATPIPE_HOME": str(home())}
        environment |= variables or {}
        self._is_saving = False
        self._process = subprocess.Popen(
            parent_death.command("chatpipe.runtime.worker"),
            # The current directory may have files with the names of modules.
            env={**environment, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def build(
        self, request: Request, into: Path, on_progress: OnProgress, on_line: OnLine
    ) -> dict[str, Any]:
        """Build the request in the worker process; return its details or raise its error."""
        assert self._process.stdin is not None
        lines: deque[str] = deque(maxlen=KEPT_LINES)

        def keep(line: str) -> None:
            lines.append(line)
            on_line(line)

        try:
            self._process.stdin.write(_message(request, into) + "\n")
            self._process.stdin.flush()
            outcome = self._follow(on_progress, keep)
        except BrokenPipeError:
            outcome = {}
        except BaseException as error:
            self._stop(is_interrupt=isinstance(error, KeyboardInterrupt))
            raise
        if "error" in outcome:
            raise Failure.model_validate(outcome["error"]).as_error()
        if "details" in outcome:
            return dict(outcome["details"])
        raise _died(request, self._process.wait(), list(lines))

    def close(self) -> None:
        """End the process by closing its input."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError), self._process.stdin, self._process.stdout:
            pass
        self._process.wait()

    def kill(self) -> None:
        """End the process at once, whatever it computes."""
        self._process.kill()
        self._process.wait()

    def alive(self) -> bool:
        """Return whether the process can build another request."""
        return self._process.poll() is None

    def _follow(self, on_progress: OnProgress, on_line: OnLine) -> dict[str, Any]:
        """Read until the request's outcome; empty if the process ends without one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = progress.parse(line, on_progress)
            if event is None:
                on_line(line.rstrip())
            elif "stopping" in event:
                self._is_saving = True
            elif "details" in event or "error" in event:
                return event
        return {}

    def _stop(self, is_interrupt: bool) -> None:
        """End the process; one that trains may save a checkpoint first. Ctrl-C ends it at once."""
        patience_s = SAVED_AFTER_INTERRUPT_S if is_interrupt else SAVED_AFTER_SIGTERM_S
        end = threading.Timer(patience_s, self._process.kill)
        end.daemon = True
        try:
            end.start()
            self._process.terminate()
            self._wait_for_checkpoint(is_interrupt)
            self._process.wait()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            end.cancel()

    def _wait_for_checkpoint(self, is_interrupt: bool) -> None:
        """Read to the end of the process; where it saves a checkpoint, say so."""
        assert self._process.stdout is not None
        if self._is_saving:
            _announce_checkpoint(is_interrupt)
        for line in self._process.stdout:
            event = progress.parse(line, lambda _: None)
            if event is not None and "stopping" in event and not self._is_saving:
                self._is_saving = True
                _announce_checkpoint(is_interrupt)


class SharedWorker:
    """A worker process for many requests, started by the first one."""

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None
        self._users = 0

    @contextmanager
    def keep_alive(self) -> Iterator[None]:
        """Build all requests in this block in one process, which ends after the block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._close()

    def build(
        self, request: Request, into: Path, on_progress: OnProgress, on_line: OnLine
    ) -> dict[str, Any]:
        """Build a request as `WorkerProcess.build`; a process that has died is replaced."""
        if self._worker is None or not self._worker.alive():
            self._worker = WorkerProcess()
        try:
            return self._worker.build(request, into, on_progress, on_line)
        finally:
            if not self._users:
                self._close()

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _message(request: Request, into: Path) -> str:
    fields = request.model_dump(mode="json")
    return json.dumps({"class": class_path(request), "request": fields, "into": str(into)})


def _announce_checkpoint(is_interrupt: bool) -> None:
    """Print it on the terminal, if that still exists."""
    hint = "; press Ctrl-C again to stop at once" if is_interrupt else ""
    with suppress(OSError):
        print(f"saving a checkpoint{hint}", file=sys.stderr, flush=True)


def _died(request: Request, code: int, lines: list[str]) -> StepProcessError:
    """The error of a process that ended without an outcome; `lines` are the last that it wrote."""
    if code == -signal.SIGKILL:
        return StepProcessError(
            f"the {request.kind} step was ended by SIGKILL; the machine ran out of memory?"
        )
    log = written_to(write_log(request.kind, lines) if any(lines) else None)
    if code < 0:
        return StepProcessError(
            f"the {request.kind} step was ended by {signal.Signals(-code).name}{log}"
        )
    last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    words = redact(last_line.rstrip(".")) or "it wrote nothing"
    return StepProcessError(f"the {request.kind} step ended with exit code {code}: {words}{log}")


def main() -> None:
    """Build every request from standard input and report progress and outcome to the parent."""
    faulthandler.enable()
    prepare()
    for line in sys.stdin:
        message = json.loads(line)
        request = request_class(message["class"]).model_validate(message["request"])
        try:
            with oom.name_memory_errors(request):
                details = request.build(Path(message["into"]))
            progress.emit("details", details)
        except Exception as error:
            progress.emit("error", Failure.of(error, request.kind).model_dump())
            if isinstance(error, StoppedError):
                return


if __name__ == "__main__":
    main()

"""GPU steps in processes of their own: memory is given back, a killed step is a typed error.

`python -m chatpipe.child` reads requests from standard input, a JSON line each, and builds them
one after another, so that what one request has loaded serves the next.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatpipe import gpu_memory, progress
from chatpipe.artifacts import Request, home
from chatpipe.disk_errors import disk_errors
from chatpipe.errors import ChatpipeError, StepProcessError, named
from chatpipe.libraries import prepare
from chatpipe.tether import die_with_parent

OnProgress = Callable[[progress.Progress], None]
OnLine = Callable[[str], None]


class Child:
    """The parent's side: a process that stays until it is closed.

    It is in this process group, so that a cancelled run's signal reaches it.
    """

    def __init__(self) -> None:
        environment = {**os.environ, "CHATPIPE_CHILD": "1", "CHATPIPE_HOME": str(home())}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chatpipe.child"],
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def build(
        self, request: Request, into: Path, on_progress: OnProgress, on_line: OnLine
    ) -> dict[str, Any]:
        """Build the request there; its details, or its error raised here."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(_message(request, into) + "\n")
            self._process.stdin.flush()
            outcome = self._follow(on_progress, on_line)
        except BrokenPipeError:
            outcome = {}
        except BaseException:
            self._stop()
            raise
        if "error" in outcome:
            error = outcome["error"]
            raise named(error["type"], error["message"])
        if "details" in outcome:
            return dict(outcome["details"])
        raise _died(request, self._process.wait(), outcome.get("last_line", ""))

    def close(self) -> None:
        """End the process: it has nothing left to do, so end of input is enough."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._process.stdin, self._process.stdout:
            pass
        self._process.wait()

    def alive(self) -> bool:
        """Whether the process can take another request."""
        return self._process.poll() is None

    def _follow(self, on_progress: OnProgress, on_line: OnLine) -> dict[str, Any]:
        """Read until the request's outcome, or until the process ended without one."""
        assert self._process.stdout is not None
        last_line = ""
        for line in self._process.stdout:
            event = progress.parse(line, on_progress)
            if event is None:
                last_line = line.strip() or last_line
                on_line(line.rstrip())
            elif "details" in event or "error" in event:
                return event
        return {"last_line": last_line}

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class SharedChild:
    """One child for many requests: started by the first that is built while `kept` lasts."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._keepers = 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Requests built within share a process; it ends, and gives its memory back, after."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            if not self._keepers:
                self._close()

    def build(
        self, request: Request, into: Path, on_progress: OnProgress, on_line: OnLine
    ) -> dict[str, Any]:
        """As Child.build; a child that has died is replaced."""
        if self._child is None or not self._child.alive():
            self._child = Child()
        try:
            return self._child.build(request, into, on_progress, on_line)
        finally:
            if not self._keepers:
                self._close()

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _message(request: Request, into: Path) -> str:
    asked = request.model_dump(mode="json")
    return json.dumps({"step": type(request).__name__, "request": asked, "into": str(into)})


def _died(request: Request, code: int, last_line: str) -> StepProcessError:
    if code < 0:
        name = signal.Signals(-code).name
        hint = "the machine ran out of memory?" if name == "SIGKILL" else "it was stopped."
        return StepProcessError(f"the {request.kind} step was ended by {name}; {hint}")
    said = last_line or "it said nothing."
    return StepProcessError(f"the {request.kind} step ended with exit code {code}: {said}")


def _steps() -> dict[str, type[Request]]:
    from chatpipe.company import AskInCompany
    from chatpipe.finetuning import Finetune
    from chatpipe.generation import Ask
    from chatpipe.planning import MakePlan
    from chatpipe.scoring import Score
    from chatpipe.sources import FetchModel

    steps = (MakePlan, FetchModel, Finetune, Score, Ask, AskInCompany)
    return {step.__name__: step for step in steps}


def main() -> None:
    """Build every request that standard input brings, telling the parent how it goes."""
    die_with_parent()
    prepare()
    for line in sys.stdin:
        message = json.loads(line)
        request = _steps()[message["step"]].model_validate(message["request"])
        try:
            with gpu_memory.errors_named(request), disk_errors(home()):
                details = request.build(Path(message["into"]))
            progress.emit("details", details)
        except (ChatpipeError, ValueError) as error:
            progress.emit("error", {"type": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    main()

"""GPU steps as child processes: memory is given back, a killed step becomes a typed error.

`python -m chatpipe.child REQUEST.json INTO` builds one request; the parent is `build_in_child`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from chatpipe import progress
from chatpipe.artifacts import Request, home
from chatpipe.errors import BY_NAME, ChatpipeError, StepProcessError
from chatpipe.quiet import quieten


def build_in_child(
    request: Request,
    into: Path,
    on_progress: Callable[[progress.Progress], None],
    on_line: Callable[[str], None],
) -> dict[str, Any]:
    """Build the request in a process of its own; its details, or its error raised here.

    The child stays in this process group, so that a cancelled run's signal reaches it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked = Path(scratch) / "request.json"
        asked.write_text(
            json.dumps({"step": type(request).__name__, "request": request.model_dump(mode="json")})
        )
        command = [sys.executable, "-m", "chatpipe.child", str(asked), str(into)]
        environment = {**os.environ, "CHATPIPE_CHILD": "1", "CHATPIPE_HOME": str(home())}
        child = subprocess.Popen(
            command,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            assert child.stdout is not None
            outcome = _follow(child.stdout, on_progress, on_line)
            code = child.wait()
        except BaseException:
            _stop(child)
            raise
    return _result(request, code, outcome)


def _follow(
    lines: IO[str],
    on_progress: Callable[[progress.Progress], None],
    on_line: Callable[[str], None],
) -> dict[str, Any]:
    outcome: dict[str, Any] = {}
    for line in lines:
        event = progress.parse(line, on_progress)
        if event is not None:
            outcome.update(event)
        elif line.strip():
            on_line(line.rstrip())
    return outcome


def _result(request: Request, code: int, outcome: dict[str, Any]) -> dict[str, Any]:
    if "error" in outcome:
        error = outcome["error"]
        raise BY_NAME.get(error["type"], ChatpipeError)(error["message"])
    if code == 0 and "details" in outcome:
        return dict(outcome["details"])
    if code < 0:
        name = signal.Signals(-code).name
        hint = "the machine ran out of memory?" if name == "SIGKILL" else "it was stopped."
        raise StepProcessError(f"the {request.kind} step was ended by {name}; {hint}")
    raise StepProcessError(
        f"the {request.kind} step ended with exit code {code}; its log says why."
    )


def _stop(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _steps() -> dict[str, type[Request]]:
    from chatpipe.finetuning import Finetune
    from chatpipe.generation import Ask
    from chatpipe.scoring import Score
    from chatpipe.sources import FetchModel

    return {step.__name__: step for step in (FetchModel, Finetune, Score, Ask)}


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, even by SIGKILL: no orphan on a GPU."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def main(asked: str, into: str) -> int:
    """Build the request in that file into that directory, telling the parent how it goes."""
    _die_with_parent()
    quieten()
    message = json.loads(Path(asked).read_text("utf-8"))
    request = _steps()[message["step"]].model_validate(message["request"])
    try:
        progress.emit("details", request.build(Path(into)))
    except (ChatpipeError, ValueError) as error:
        known = isinstance(error, ChatpipeError)
        progress.emit("error", {"type": type(error).__name__, "message": str(error)})
        return 1 if known else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

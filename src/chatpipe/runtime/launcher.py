"""One training on several devices: a process for each, started by torch's own launcher.

`python -m chatpipe.runtime.launcher COUNT REQUEST INTO OUTCOME` is the launcher,
and the same without a count each of the processes. All end when the process that asked for them
does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from chatpipe.errors import StepProcessError
from chatpipe.runtime import parent_death
from chatpipe.runtime.environment import prepare
from chatpipe.runtime.failures import Failure
from chatpipe.runtime.oom import name_memory_errors
from chatpipe.runtime.processes import thread_variables
from chatpipe.runtime.stopping import STOP_FILE, deferred_signals
from chatpipe.store.artifact import Request, class_path, request_class
from chatpipe.store.paths import home
from chatpipe.utils.atomic_writes import write_atomically

PATIENCE = timedelta(minutes=30)  # of a process for the others: each reads and quantizes a base


def build_together(request: Request, into: Path, count: int) -> dict[str, Any]:
    """Have that many processes build the request there; its details, or its error raised here."""
    with tempfile.TemporaryDirectory() as folder:
        request_file, outcome_file = Path(folder) / "request.json", Path(folder) / "outcome.json"
        stop_file = Path(folder) / "stop"
        message = {"class": class_path(request), "request": request.model_dump(mode="json")}
        request_file.write_text(json.dumps(message), "utf-8")
        files = [str(request_file), str(into), str(outcome_file)]
        with deferred_signals(on_signal=stop_file.touch):
            launcher = subprocess.Popen(
                parent_death.command("chatpipe.runtime.launcher", str(count), *files),
                env={
                    **os.environ,
                    "CHATPIPE_HOME": str(home()),
                    STOP_FILE: str(stop_file),
                    **thread_variables(count),
                },
                start_new_session=True,  # a terminal's Ctrl-C is for this process alone
            )
            code = _end_of(launcher)
        outcome = json.loads(outcome_file.read_text("utf-8")) if outcome_file.is_file() else {}
    if "error" in outcome:
        raise Failure.model_validate(outcome["error"]).as_error()
    if "details" not in outcome:
        raise StepProcessError(
            f"the {request.kind} step ended with exit code {code} in one of its "
            f"{count} processes; the lines before say why."
        )
    return dict(outcome["details"])


def _end_of(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process, which does not outlast what interrupts this one."""
    try:
        return process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise


def launch(count: str, files: list[str]) -> None:
    """Start the processes and wait for them; torch's launcher ends them when it is ended."""
    from torch.distributed.run import main as torchrun

    _, *python_arguments = parent_death.command("chatpipe.runtime.launcher", *files)
    torchrun(["--standalone", f"--nproc-per-node={count}", *python_arguments])


def main(request_file: Path, into: Path, outcome_file: Path) -> None:
    """One of the processes; the first one speaks for all."""
    import torch
    from accelerate import PartialState
    from torch import distributed

    if int(os.environ["RANK"]):
        os.environ.pop("CHATPIPE_CHILD", None)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    outcome: dict[str, Any]
    message = json.loads(request_file.read_text("utf-8"))
    request = request_class(message["class"]).model_validate(message["request"])
    try:
        with name_memory_errors(request):
            outcome = {"details": request.build(into)}
    except Exception as error:
        outcome = {"error": Failure.of(error, request.kind).model_dump()}
    is_first_error = "error" in outcome and not outcome_file.exists()  # others fail because of it
    if ("details" in outcome and not int(os.environ["RANK"])) or is_first_error:
        write_atomically(outcome_file, json.dumps(outcome).encode())
    if "error" in outcome:
        end_at_once(1)  # the group is not taken down: NCCL would wait for the others to do so, too
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if int(os.environ["RANK"]):
        end_at_once(0)


def end_at_once(code: int) -> NoReturn:
    """End this process without taking its interpreter down: where a thread of torch's still waits
    for the interpreter's lock, that can abort, and the launcher would end the one that saves."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    prepare()
    if "RANK" in os.environ:
        main(*map(Path, sys.argv[1:]))
    else:
        launch(sys.argv[1], sys.argv[2:])

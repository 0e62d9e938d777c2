"""Processes that compute parts of this process's steps, each on a device of its own.

They start when a step first has parts for them, and keep the base that they have loaded, as this
process does. They end when it ends.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import IO, Any

from chatpipe.errors import StepProcessError, error_from_name
from chatpipe.runtime.device_locks import lock_name, locked
from chatpipe.runtime.processes import (
    PROCESSES,
    is_one_of_several,
    processes,
    thread_variables,
)
from chatpipe.runtime.progress import Progress
from chatpipe.runtime.worker import WorkerProcess
from chatpipe.store.artifact import Request

REPORTED_EVERY_S = 1.0


class Helper:
    """A worker process on a device of its own, as the process that it helps has it."""

    def __init__(self, device: str, variables: Mapping[str, str], lock: IO[str] | None) -> None:
        self.device = device  # as messages name it
        self._lock = lock
        self._process = WorkerProcess(variables)
        self._lines: deque[str] = deque()
        self._future: Future[Any] | None = None

    def start(self, request: Request, on_progress: Callable[[Progress], None]) -> Future[Any]:
        """Have it build the request; the future has its details, or its error.

        Raises StepProcessError while it builds another one: it has one pipe for all outcomes.
        """
        if self.is_building():
            raise StepProcessError(f"the process on {self.device} has not ended its last part.")
        future: Future[Any] = Future()

        def build() -> None:
            # A part's product is in its details: nothing is written.
            into = Path(os.devnull)
            try:
                future.set_result(
                    self._process.build(request, into, on_progress, self._lines.append)
                )
            except BaseException as error:
                future.set_exception(error)

        self._future = future
        threading.Thread(target=build, daemon=True).start()
        return future

    def is_building(self) -> bool:
        """Return whether a request has neither details nor an error yet."""
        return self._future is not None and not self._future.done()

    def is_free(self) -> bool:
        """Return whether it can build another request."""
        return self._process.alive() and not self.is_building()

    def print_lines(self) -> None:
        """Print what it wrote since the last call, in the thread that reports progress: two that
        print could mix their lines."""
        while self._lines:
            print(f"{self.device}: {self._lines.popleft()}", flush=True)

    def end(self) -> None:
        """End it at once, and free its device."""
        self._process.kill()
        self._release()

    def close(self) -> None:
        """End it, and free its device. What it still builds, nobody waits for any more."""
        if self.is_building():
            self._process.kill()
        else:
            self._process.close()
        self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.close()


class Parts:
    """Requests that helpers build while this process computes a part of its own; the helpers are
    ended where that, or one of them, fails."""

    def __init__(self, requests: Mapping[Helper, Request]) -> None:
        self._done = dict.fromkeys(requests, 0)
        self._futures = started(requests, self._counts)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for helper in self._futures:
                discard(helper)

    def done(self) -> int:
        """Return how many units (rows) the helpers have computed; raise the error of one that has
        failed."""
        for helper, future in self._futures.items():
            helper.print_lines()
            if future.done() and (error := future.exception()):
                raise located(error, helper.device) from error
        return sum(self._done.values())

    def details(self, report: Callable[[int], None]) -> list[dict[str, Any]]:
        """Wait for all; return what each has made. Progress is reported meanwhile."""
        while wait(self._futures.values(), timeout=REPORTED_EVERY_S).not_done:
            report(self.done())
        report(self.done())
        return [future.result() for future in self._futures.values()]

    def _counts(self, helper: Helper) -> Callable[[Progress], None]:
        def count(progress: Progress) -> None:
            self._done[helper] = progress.done

        return count


def started(
    requests: Mapping[Helper, Request], on_progress: Callable[[Helper], Callable[[Progress], None]]
) -> dict[Helper, Future[Any]]:
    """Start all requests, or none: where one cannot be started, the helpers of the others are
    ended."""
    futures: dict[Helper, Future[Any]] = {}
    try:
        for helper, request in requests.items():
            futures[helper] = helper.start(request, on_progress(helper))
    except BaseException:
        for helper in futures:
            discard(helper)
        raise
    return futures


_HELPERS: dict[int, Helper] = {}


def available_helpers(most: int) -> list[Helper]:
    """Return the helpers of this process, at most that many: one for each of the processes that
    compute a step together, but this one. A device that another process's helper is on is left
    out."""
    if most < 1 or is_one_of_several():
        return []
    count = processes()
    for number in range(1, min(count, most + 1)):
        if number in _HELPERS and _HELPERS[number].is_free():
            continue
        _discard(number)
        device, variables = device_of(number)
        lock = locked(lock_name(number, variables.get("CUDA_VISIBLE_DEVICES")))
        if lock is not None:
            variables |= {PROCESSES: "1", **thread_variables(count)}
            _HELPERS[number] = Helper(device, variables, lock)
    return [helper for number, helper in sorted(_HELPERS.items()) if number <= most]


def device_of(number: int) -> tuple[str, dict[str, str]]:
    """Return the name of a process's device (0 is this process's), and the variables that leave it
    alone to be seen."""
    import torch

    if not torch.cuda.device_count():
        return f"process {number + 1} on the CPU", {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpu = visible.split(",")[number].strip() if visible else str(number)
    return f"GPU {gpu}", {"CUDA_VISIBLE_DEVICES": gpu}


def discard(helper: Helper) -> None:
    """End a helper at once; the next step may start another one."""
    for number, other in list(_HELPERS.items()):
        if other is helper:
            _discard(number)


def close_helpers() -> None:
    """End all helpers of this process."""
    while _HELPERS:
        _HELPERS.popitem()[1].close()


atexit.register(close_helpers)


def located(error: BaseException, device: str) -> BaseException:
    """Return the error of a part with the name of its device."""
    if not isinstance(error, Exception):
        return error
    return error_from_name(type(error).__name__, f"on {device}: {error}")


def _discard(number: int) -> None:
    if helper := _HELPERS.pop(number, None):
        helper.end()

"""Progress of a step: events as JSON lines from a worker process to its parent."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

PREFIX = "@chatpipe "  # marks our lines among what libraries print

Report = Callable[[int], None]  # takes how many units are done


class Progress(BaseModel):
    """`done` of `total` units (rows, steps, prompts); `eta_s` is what is left at this pace."""

    model_config = ConfigDict(frozen=True)

    done: int
    total: int
    unit: str
    eta_s: float | None = None
    loss: float | None = None


class Reporter:
    """Prints progress events at most every `every_s` seconds, and the last one always."""

    def __init__(self, total: int, unit: str, every_s: float = 1.0) -> None:
        self.total, self.unit, self.every_s = total, unit, every_s
        self.started = self.reported = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int, loss: float | None = None) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = done, now
        if done < self.total and now - self.reported < self.every_s:
            return
        self.reported = now
        fresh = done - self.first
        eta = (self.total - done) * (now - self.started) / fresh if fresh > 0 else None
        event = Progress(done=done, total=self.total, unit=self.unit, eta_s=eta, loss=loss)
        emit("progress", event.model_dump())


def after(done: int, report: Report) -> Report:
    """Return the report of units that come after so many others."""
    return lambda later: report(done + later)


def emit(name: str, value: Any) -> None:
    """One event to the parent process; silent where there is none to read it."""
    if os.environ.get("CHATPIPE_CHILD"):
        print(PREFIX + json.dumps({name: value}), flush=True)


def parse(line: str, on_progress: Callable[[Progress], None]) -> dict[str, Any] | None:
    """Act on a progress line; give back any other event; None for a line that is not ours."""
    # A library may have printed the beginning of a line, and not its end, before us.
    _, prefix, message = line.partition(PREFIX)
    try:
        event: Any = json.loads(message) if prefix else None
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    if "progress" in event:
        on_progress(Progress.model_validate(event["progress"]))
    return event

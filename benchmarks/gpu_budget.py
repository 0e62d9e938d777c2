"""The time of `benchmarks.gpu`, and what is left out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

import psutil

SECONDS = 520  # less than nine minutes, to end in

Result = TypeVar("Result")


class LeftOutError(Exception):
    """Why a contender is not measured."""


class Budget:
    """So many seconds from a time (of `time.time`). What is measured next is taken to need as long
    as the longest before it."""

    def __init__(self, seconds: float, started: float) -> None:
        self._end = started + seconds
        self._longest = 0.0

    @classmethod
    def of_process(cls) -> Budget:
        """Return what is left of this process's time."""
        return cls(SECONDS, psutil.Process().create_time())

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._end - time.time()

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Measure what is done within; LeftOutError where there is no time for it."""
        if self.left < self._longest:
            raise LeftOutError(f"no time: {max(0.0, self.left):.0f} s are left")
        before = time.time()
        yield
        self._longest = max(self._longest, time.time() - before)


def installed(package: str, run: Callable[[], Result]) -> Callable[[], Result]:
    """Return what measures by that package; LeftOutError where it is not there."""

    def measured() -> Result:
        if find_spec(package) is None:
            raise LeftOutError(f"{package} is not installed")
        return run()

    return measured

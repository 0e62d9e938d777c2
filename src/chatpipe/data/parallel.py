"""Work on the parts of something large, on all cores, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Made = TypeVar("Made")

# More threads would wait for the one that writes, and each holds a part in memory.
MOST_THREADS = 4


def in_order(work: Callable[[Part], Made], parts: Iterable[Part]) -> Iterator[Made]:
    """`work` of every part, in the parts' order; a few are worked on while one is used."""
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

"""Packs side by side on a CPU.

Between two products of a model one core dispatches while the others wait, and what is not a product
runs on one core for the most part. So a few packs are computed at once, each in a thread of its own
(a lane) with its share of the cores. Losses and gradients are those of one pack after another, but
for rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from peft.tuners.lora import ParamWrapper

from chatpipe.kernels.dequantize import is_quantized
from chatpipe.kernels.switch import is_enabled, ran
from chatpipe.models.sharding import is_sharded
from chatpipe.tokenization.encoder import TokenizedRow

LEAST_TOKENS = 256  # of a lane: shorter ones read the weights for too little

Item = TypeVar("Item")
Result = TypeVar("Result")


def most_lanes(model: Any) -> int:
    """How many passes through the model may be made at once: one for each of torch's threads on a
    CPU, but one alone where a pass changes what the model holds."""
    weight = next(model.parameters())
    fetches = is_quantized(model) or is_sharded(model)
    changes = fetches or _has_moving_positions(model) or _has_adapted_parameters(model)
    if weight.device.type != "cpu" or changes or not is_enabled("concurrency"):
        return 1
    return torch.get_num_threads()


def lanes_for(rows: Sequence[TokenizedRow], max_tokens: int, most: int) -> int:
    """How many lanes these rows fill, where `max_tokens` may be held at once in all of them; a
    divisor of `most`, so that no core is left over."""
    lengths = [len(row.input_ids) for row in rows]
    tokens = min(max_tokens, sum(lengths))
    filled = tokens // max([LEAST_TOKENS, *lengths])
    return max(
        lanes for lanes in range(1, most + 1) if most % lanes == 0 and lanes <= max(1, filled)
    )


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], lanes: int
) -> Iterator[Result]:
    """The function's results in the order of the items, so many at once. What a thread has of its
    own (autocast, gradients on or off) is for the function to set."""
    if lanes == 1:
        yield from map(function, items)
        return
    ran("concurrency")
    threads = torch.get_num_threads()
    share = max(1, threads // lanes)
    # For this thread too, which would wait for cores that the lanes keep busy.
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(
            lanes, initializer=torch.set_num_threads, initargs=(share,)
        ) as pool:
            yield from _windowed(pool, function, items, lanes)
    finally:
        torch.set_num_threads(threads)


def _windowed(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    lanes: int,
) -> Iterator[Result]:
    """As `pool.map`, but only one more than there are lanes is under way or waits to be taken,
    because gradients are large; after an error nothing else is begun."""
    window: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(window) > lanes:
                yield window.popleft().result()
            window.append(pool.submit(function, item))
        while window:
            yield window.popleft().result()
    finally:
        for future in window:
            future.cancel()


def _has_moving_positions(model: Any) -> bool:
    """Whether rotary frequencies follow the longest row that was seen (transformers'
    dynamic_rope_update)."""
    kinds = (str(getattr(module, "rope_type", "")) for module in model.modules())
    return any("dynamic" in kind or "longrope" in kind for kind in kinds)


def _has_adapted_parameters(model: Any) -> bool:
    """Whether LoRA is on bare parameters, as on the experts of a mixture. In every pass peft puts
    the adapted weight in the place of the layer's own, in a cache that all threads share, and takes
    it away again: another thread's pass would be through the wrong weight."""
    return any(isinstance(module, ParamWrapper) for module in model.modules())

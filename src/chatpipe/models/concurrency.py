"""Compute several packs at the same time on a CPU, each in a thread with its share of the cores.

One pack alone leaves cores idle: between two matrix products one core dispatches while the others
wait, and most of what is no matrix product runs on one core. Losses and gradients are those of one
pack after another, up to rounding.
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
from chatpipe.models.streaming import is_streamed
from chatpipe.tokenization.encoder import TokenizedRow

MIN_TOKENS_PER_THREAD = 256  # fewer tokens do not pay for reading the weights

Item = TypeVar("Item")
Result = TypeVar("Result")


def max_threads(model: Any) -> int:
    """Return how many forward passes may run at once: as many as torch has threads on a CPU, and 1
    where a pass changes the model's state."""
    weight = next(model.parameters())
    fetches = is_quantized(model) or is_sharded(model) or is_streamed(model)
    changes = fetches or has_moving_positions(model) or _has_adapted_parameters(model)
    if weight.device.type != "cpu" or changes or not is_enabled("concurrency"):
        return 1
    return torch.get_num_threads()


def thread_count(rows: Sequence[TokenizedRow], max_tokens: int, most: int) -> int:
    """Return how many threads these rows keep busy, if all threads together may hold `max_tokens`
    tokens. It divides `most`, so that no core is left over."""
    return threads_for([len(row.input_ids) for row in rows], max_tokens, most)


def threads_for(lengths: Sequence[int], max_tokens: int, most: int) -> int:
    """As thread_count, of rows or packs of so many tokens each."""
    tokens = min(max_tokens, sum(lengths))
    filled = tokens // max([MIN_TOKENS_PER_THREAD, *lengths])
    return max(
        threads
        for threads in range(1, most + 1)
        if most % threads == 0 and threads <= max(1, filled)
    )


def leave_cores_to_another_thread() -> int:
    """Return how many threads torch has here, and have it use one in this thread from now on.

    OpenMP starts threads of its own for every Python thread that computes. Where these are more
    than there are cores, it has them sleep after every operation, and small operations take twice
    as long: so only one Python thread may compute in parallel.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    return cores


def run_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield the function's results in the order of the items, computing `threads` of them at once.
    The function sets what torch keeps for each thread (autocast, gradients on or off)."""
    if threads == 1:
        yield from map(function, items)
        return
    ran("concurrency")
    cores = torch.get_num_threads()
    share = max(1, cores // threads)
    # For this thread too: it would wait for cores that the pool's threads keep busy.
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(share,)
        ) as pool:
            yield from _windowed(pool, function, items, threads)
    finally:
        torch.set_num_threads(cores)


def _windowed(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
) -> Iterator[Result]:
    """As `pool.map`, but at most threads + 1 items are computed or wait to be taken, because
    gradients are large. After an error nothing else is begun."""
    window: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(window) > threads:
                yield window.popleft().result()
            window.append(pool.submit(function, item))
        while window:
            yield window.popleft().result()
    finally:
        for future in window:
            future.cancel()


def has_noise(config: Any) -> bool:
    """Return whether the base has dropout or jitter itself, by the names in its configuration."""
    names = ("dropout", "pdrop", "jitter")
    return any(
        isinstance(value, float) and value > 0
        for name, value in config.to_dict().items()
        if any(part in name for part in names)
    )


def has_moving_positions(model: Any) -> bool:
    """Whether rotary frequencies follow the longest row that was seen (transformers'
    dynamic_rope_update)."""
    kinds = (str(getattr(module, "rope_type", "")) for module in model.modules())
    return any("dynamic" in kind or "longrope" in kind for kind in kinds)


def sharing_fault(model: Any) -> str | None:
    """Return why trainings of one base do not share passes, where it is the base's own."""
    if has_noise(model.config.get_text_config()):
        return "the base draws random numbers itself"
    if has_moving_positions(model):
        return "the base's positions follow the longest row"
    return None


def _has_adapted_parameters(model: Any) -> bool:
    """Whether LoRA is on bare parameters, as on the experts of a mixture. In every pass peft puts
    the adapted weight in the place of the layer's own, in a cache that all threads share, and takes
    it away again: another thread's pass would be through the wrong weight."""
    return any(isinstance(module, ParamWrapper) for module in model.modules())

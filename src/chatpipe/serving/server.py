"""The server process: a model loaded, and its application served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from fastapi import APIRouter

from chatpipe.generation.capacity import AT_ONCE
from chatpipe.serving.app import Service, create_app
from chatpipe.serving.engine import MOST_WAITING, Engine
from chatpipe.serving.served_models import ServedBase, served_models
from chatpipe.web.server import serve_until_signal


@contextmanager
def loaded(
    served: ServedBase, most_waiting: int = MOST_WAITING, most_rows: int = AT_ONCE
) -> Iterator[Service]:
    """Load the base with its adapters; the service answers while this lasts."""
    import torch

    from chatpipe.models import inference, loading
    from chatpipe.models.base_checks import base_config
    from chatpipe.models.concurrency import leave_cores_to_another_thread
    from chatpipe.models.positions import positions_of

    tokenizer = loading.load_tokenizer(served.base)
    models = served_models(served, tokenizer)
    decoder = loading.load_tokenizer(served.base)
    cores = leave_cores_to_another_thread()
    loading_model = inference.cached_model(served.base, served.adapters, served.quantization)
    with ExitStack() as stack:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(cores,)) as pool:
            model = pool.submit(stack.enter_context, loading_model).result()
        engine = Engine(model, most_waiting, most_rows, cores)
        yield Service(engine, models, decoder, positions_of(base_config(served.base)))


def run(
    service: Service,
    address: tuple[str, int],
    api_key: str | None,
    on_start: Callable[[str], None],
    on_stop: Callable[[int], None] | None = None,
    pages: tuple[Sequence[APIRouter], Sequence[str]] = ((), ()),
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is being answered.

    Args:
        address: The host and the port; 0 is any that is free.
        on_start: Is called with the server's address.
        on_stop: Is called after the signal with the number of replies that are finished first.
        pages: More routes, and their paths that need no key.
    """
    app = create_app(service, address[0], api_key, *pages)

    def stop() -> None:
        if on_stop:
            counts = service.engine.counts()
            on_stop(counts["running"] + counts["waiting"])

    serve_until_signal(app, address, on_start, stop)

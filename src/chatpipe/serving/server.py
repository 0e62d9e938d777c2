"""The server process: a model loaded, an application, and signals."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import uvicorn
from fastapi import APIRouter

from chatpipe.generation.batch import AT_ONCE
from chatpipe.rating.serving import address_of, bound_socket
from chatpipe.serving.app import Service, create_app
from chatpipe.serving.engine import MOST_WAITING, Engine
from chatpipe.serving.served_models import ServedBase, served_models


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
    routers: Sequence[APIRouter] = (),
    public_paths: Sequence[str] = (),
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is being answered. on_start is called with
    the server's address; port 0 is any that is free."""
    host, port = address
    app = create_app(service, host, api_key, routers, public_paths)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="on"
    )
    with bound_socket(host, port) as bound:
        _Server(config, lambda: on_start(address_of(host, bound))).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Ends by returning, also after a signal."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        ending = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in ending}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

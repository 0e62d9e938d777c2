"""Answers to rate, and apps served for a test."""

import itertools
import threading
import time
from contextlib import contextmanager

import uvicorn

from chatpipe.rating.pairs import Model, make_pairs
from chatpipe.report.schema import Answer

NAMES = ("smol-alpaca", "smol-dialog+training.seed=2", "zephyr-base")
MODELS = {name: Model(name, f"{place}" * 64) for place, name in enumerate(NAMES)}


def answers_of(prompts=4, names=NAMES):
    """An answer of every model to every prompt; no text tells whose it is."""
    return [
        Answer(
            model=name,
            prompt_id=f"prompt-id-{prompt}",
            asked="template",
            instruction=f"What is {prompt} and {prompt}?",
            input="",
            text=f"It is {2 * prompt + NAMES.index(name) % 2}, {'as ' * NAMES.index(name)}I think.",
            tokens=8,
            stop="eos",
        )
        for prompt, name in itertools.product(range(prompts), names)
    ]


def pairs_of(prompts=4, seed=0):
    """All pairs of these models' answers."""
    return make_pairs(MODELS, answers_of(prompts), seed)


@contextmanager
def served(app):
    """Yield the address at which a real server on loopback has the app."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)

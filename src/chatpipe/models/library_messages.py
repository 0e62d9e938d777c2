"""What transformers prints and raises: kept quiet, and kept short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def first_line(error: BaseException) -> str:
    """The first sentence of another library's error, with the reason where that follows a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    text = text.partition(" Errors: ")[0]  # the same again, for each type that is allowed
    bare = isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError)
    return (f"{type(error).__name__}: {text}" if bare else text).rstrip(".")[:300]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own table and bar of what it loads: the report is read here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(50)
    try:
        yield
    finally:
        logging.set_verbosity(level)
